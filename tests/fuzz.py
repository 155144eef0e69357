"""Damaged and hostile files for every reader: good files, mutated, given to the real command line.

python tests/fuzz.py --inputs 5000 --seed 0

It prints how often each command ended with each exit code, and every fault: a bug (70), a command that takes longer
than ``PATIENCE``, and one that refuses its input and has changed the run all the same.
"""

import argparse
import csv
import io
import json
import shutil
import signal
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
from command_line import tree
from data_makers import made, pictures, write_images, write_rows
from exchange_run import CHOSEN, CLASSES, image_run
from exchange_tools import PEOPLE, zipped
from PIL import Image

from metaselect.cli.main import main
from metaselect.run.layout import Run

PATIENCE = 60  # seconds for a command; the slowest takes less than one on a free core
REFUSALS = (1, 2, 3, 4)
ARTEFACT = "a file of the run"
WORDS = (
    *(
        b"\0",
        b"\xff\xfe",
        b"\\ud800",
        b"\x1b[31m",
        b'"',
        b"'",
        b"\n",
        b"\r",
        b"\n\n",
        b",",
        b";",
        b"\t",
        b"\\",
    ),
    *(
        b"=cmd()",
        b"../../etc/passwd",
        b"/dev/zero",
        b"9" * 5000,
        b"NaN",
        b"-1e400",
        b"null",
        b"[]",
        b"{}",
        b"-1",
    ),
    *(b"9007199254740993", b"\xe2\x80\xae", b"A\xcc\x8a", b"<!ENTITY x 'y'>", b"&#0;", b"<![CDATA[", b"True"),
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    [],
    {},
    "",
    -1,
    1e308,
    2**70,
    "\ud800",
    "x" * 300,
    [[]],
    {"a": {"b": None}},
    "../x",
    "\0",
)
COLUMNS: tuple[pa.Array, ...] = (
    pa.array([None] * 2, pa.null()),
    pa.array([[1.0], None]),
    pa.array([{"bytes": b"x", "path": "../y"}, None]),
    pa.array([b"\xff", b""]),
    pa.array([2**63, 0], pa.uint64()),
    pa.array([float("nan"), float("inf")]),
    pa.array([True, None]),
    pa.array(["1", "1.0"]),
    pa.array([10**20, 0], pa.decimal128(30, 2)),
    pa.array([0, 10**15], pa.timestamp("us")),
    pa.array(["a", "b"]).dictionary_encode(),
)


@dataclass(frozen=True)
class Target:
    """A command that reads a file.

    Attributes:
        name: for the table.
        content: of a good file.
        suffix: of its name.
        words: the command line: of the file and the run.
        base: a folder whose copy is the run; None: the command makes one.
        beside: a folder whose files lie beside the input.
    """

    name: str
    content: bytes
    suffix: str
    words: Callable[[Path, Path, Random], list[str]]
    base: Path | None = None
    beside: Path | None = None


# Good files


def targets(folder: Path) -> list[Target]:
    """Every command that reads a file of somebody else's, with a good file."""
    return [*_answers(folder / "answers"), *_data(folder / "data"), *_tables(folder / "tables")]


def _answers(folder: Path) -> Iterator[Target]:
    said = dict(zip(CHOSEN, [*CLASSES, "skip", "unsure"], strict=False))
    folder.mkdir(parents=True)
    run = image_run(folder / "run")
    for form in ("csv", "label-studio", "cvat", "hf", "html"):
        _call("annotate", "export", "--format", form, "--run", run.root)

    def words(file: Path, root: Path, chance: Random) -> list[str]:
        more = chance.choice([[], [], ["--outside-round"], ["--add-classes"]])
        return ["annotate", "import", str(file), *more, "--run", str(root)]

    contents = {
        way: answer(run.path(f"export/round-1/{main_file}"), said, list(CLASSES), Random(1))
        for way, (_, main_file, answer) in PEOPLE.items()
    }
    first, second = CHOSEN[:2]
    contents["cvat zip"] = zipped({"annotations.xml": contents["cvat"]})
    contents["doccano"] = _lines(
        {"id": n, "filename": f"{each}.png", "label": ["cat"]} for n, each in enumerate(said)
    )
    contents["fiftyone"] = json.dumps({"classes": list(CLASSES), "labels": {first: 0, second: 1}}).encode()
    contents["xlsx"] = _workbook([["sample_id", "clean_label"], *([each, "cat"] for each in said)])
    for way, content in contents.items():
        yield Target(way, content, ".any", words, run.root)


def _workbook(rows: list[list[str]]) -> bytes:
    from openpyxl import Workbook

    book = Workbook()
    for row in rows:
        book.active.append(row)
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def _lines(records: Any) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in records).encode()


def _data(folder: Path) -> Iterator[Target]:
    samples = pictures(8, ("cat", "dog"))
    images = write_images(folder / "images", samples)
    (folder / "features").mkdir()
    rows = [(f"i{n}", sample.path, sample.label) for n, sample in enumerate(samples)]
    numbers = [(f"i{n}", n / 3, -n, sample.label) for n, sample in enumerate(samples)]
    manifest = write_rows(folder / "m.csv", ["id", "image", "label"], rows).read_bytes()
    table = write_rows(folder / "f.csv", ["id", "x0", "x1", "label"], numbers).read_bytes()
    parquet = {
        "image parquet": pa.table({"image": [{"bytes": each.raw, "path": each.path} for each in samples],
                                   "label": [each.label for each in samples]}),
        "path parquet": pa.table({"image": [each.path for each in samples], "label": [n % 2 for n in range(8)]}),
        "feature parquet": pa.table({"sample_id": [row[0] for row in rows], "label": [row[2] for row in rows],
                                     "features": pa.array([[1.0, float(n)] for n in range(8)])}),
    }  # fmt: skip

    def words(file: Path, root: Path, chance: Random) -> list[str]:
        policy = chance.choice([[], ["--on-bad-sample", "skip"]])
        columns = ["--feature-columns", "x*"] if file.read_bytes()[:20].count(b"x0") else []
        return ["ingest", str(file), *policy, *columns, "--run", str(root)]

    def folder_words(file: Path, root: Path, chance: Random) -> list[str]:
        return ["ingest", str(file.parent), "--on-bad-sample", "skip", "--run", str(root)]

    yield Target("image csv", manifest, ".csv", words, None, images)
    yield Target("feature csv", table, ".csv", words)
    lines = _lines({"id": name, "image": path, "label": label} for name, path, label in rows)
    yield Target("image jsonl", lines, ".jsonl", words, None, images)
    for name, table_of in parquet.items():
        yield Target(name, _parquet(table_of), ".parquet", words, None, images)
    metadata = manifest.replace(b"id,image", b"id,file_name", 1)
    yield Target("metadata.csv", metadata, "metadata.csv", folder_words, None, images)
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "AVIF"):
        stream = io.BytesIO()
        Image.open(io.BytesIO(samples[0].raw)).convert("RGB").resize((16, 16)).save(stream, kind)
        yield Target(f"image {kind}", stream.getvalue(), "cat/odd.png", _odd_image, None, images)


def _odd_image(file: Path, root: Path, chance: Random) -> list[str]:
    return ["ingest", str(file.parents[1]), "--on-bad-sample", "skip", "--run", str(root)]


def _parquet(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def _tables(folder: Path) -> Iterator[Target]:
    folder.mkdir(parents=True)
    run = image_run(folder / "run")
    truth = "sample_id,clean_label\n" + "".join(f"{name},cat\n" for name in (f"s{n}" for n in range(9)))
    confusion = "," + ",".join(f'"{_doubled(name)}"' for name in CLASSES) + "\n"
    confusion += "".join(f'"{_doubled(name)}",0.5,0.25,0.25\n' for name in CLASSES)
    features = pa.table(
        {"sample_id": [f"s{n}" for n in range(9)], "features": [[float(n), 1.0] for n in range(9)]}
    )
    data = write_images(folder / "images", pictures(8, ("cat", "dog")))
    (folder / "truth.csv").write_text(truth)

    def simulate(file: Path, root: Path, chance: Random) -> list[str]:
        return ["annotate", "simulate", str(file), "--run", str(root)]

    def confuse(file: Path, root: Path, chance: Random) -> list[str]:
        return [
            "annotate",
            "simulate",
            str(folder / "truth.csv"),
            "--confusion",
            str(file),
            "--run",
            str(root),
        ]

    def select(file: Path, root: Path, chance: Random) -> list[str]:
        words = ["select", "--features", str(file), "--method", "k-center", "--budget", "2"]
        return [*words, "--run", str(root)]

    def classes(file: Path, root: Path, chance: Random) -> list[str]:
        return ["ingest", str(data), "--classes", str(file), "--on-bad-sample", "skip", "--run", str(root)]

    yield Target("truth", truth.encode(), ".csv", simulate, run.root)
    yield Target("confusion", confusion.encode(), ".csv", confuse, run.root)
    made(folder / "run.parquet", folder / "fresh")
    yield Target("outside features", _parquet(features), ".parquet", select, folder / "fresh")
    yield Target("classes", b"cat\ndog\nbird\n", ".txt", classes)


def _doubled(name: str) -> str:
    return name.replace('"', '""')


# Mutations


def mutate(content: bytes, chance: Random) -> bytes:
    """The content with one to three changes, of its bytes or of what they mean."""
    for _ in range(chance.choice([1, 1, 2, 3])):
        content = chance.choice([_bytes, _bytes, _meaning])(content, chance)
    return content


def _bytes(content: bytes, chance: Random) -> bytes:
    start = chance.randrange(len(content) + 1)
    stop = min(start + chance.choice([1, 1, 4, 40, 400]), len(content))
    part, word = content[start:stop], chance.choice(WORDS)
    changed = {
        "flip": bytes([part[0] ^ 1 << chance.randrange(8)]) + part[1:] if part else b"\x80",
        "insert": word + part,
        "replace": word,
        "remove": b"",
        "repeat": part * chance.choice([2, 50]),
        "random": chance.randbytes(len(part)),
    }
    what = chance.choice([*changed, "cut"])
    return content[:start] if what == "cut" else content[:start] + changed[what] + content[stop:]


def _meaning(content: bytes, chance: Random) -> bytes:
    """A change of one value, cell, column or part; of bytes where the content is of no known kind."""
    try:
        if content.startswith(b"PAR1"):
            return _change_table(content, chance)
        if content.startswith(b"PK"):
            return _change_part(content, chance)
        if content.lstrip()[:1] in b"[{":
            return _change_json(content, chance)
        return _change_cell(content, chance)
    except Exception:  # what was damaged before has no meaning left
        return _bytes(content, chance)


def _change_table(content: bytes, chance: Random) -> bytes:
    table = pq.read_table(io.BytesIO(content))
    place = chance.randrange(table.num_columns)
    name = table.column_names[place]
    column = chance.choice(COLUMNS)
    times = -(-table.num_rows // len(column))
    replaced = pa.concat_arrays([column] * times).slice(0, table.num_rows) if times else column.slice(0, 0)
    changed = {
        "replace": lambda: table.set_column(place, name, replaced),
        "drop": lambda: table.drop_columns([name]),
        "rename": lambda: table.rename_columns(
            [each if each != name else "x" for each in table.column_names]
        ),
        "repeat": lambda: pa.concat_tables([table, table]),
        "empty": lambda: table.slice(0, 0),
        "twice": lambda: table.append_column(name, replaced),
    }
    return _parquet(changed[chance.choice([*changed])]())


def _change_part(content: bytes, chance: Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = chance.choice([*parts])
    parts[name] = _bytes(parts[name], chance) if parts[name] else b"x"
    if chance.random() < 0.2:
        parts[f"../{name}"] = parts.pop(name)
    return zipped(parts)


def _change_json(content: bytes, chance: Random) -> bytes:
    try:
        whole = json.loads(content)
    except json.JSONDecodeError:  # JSON lines
        lines = content.splitlines()
        place = chance.randrange(len(lines))
        lines[place] = _change_json(lines[place], chance)
        return b"\n".join(lines)
    places = [*_places(whole)]
    holder, key = chance.choice(places)
    what = chance.random()
    if what < 0.2:
        del holder[key]
    elif what < 0.3 and isinstance(holder, list):
        holder.insert(key, holder[key])
    else:
        holder[key] = chance.choice(VALUES)
    return json.dumps(whole).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value inside."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key
        yield from _places(inner)


def _change_cell(content: bytes, chance: Random) -> bytes:
    rows = [*csv.reader(io.StringIO(content.decode()))]
    row = chance.choice(rows)
    place = chance.randrange(len(row))
    what = chance.choice(["cell", "cell", "drop", "more", "swap", "twice"])
    if what == "cell":
        row[place] = chance.choice(WORDS).decode("latin-1")
    elif what == "drop":
        for each in rows:
            del each[place]
    elif what == "more":
        row.append("x")
    elif what == "swap":
        chance.shuffle(row)
    else:
        rows.append(row)
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode("utf-8", "replace")


# Running


def run_one(target: Target, chance: Random, folder: Path) -> int:
    """The exit code of the target's command on a mutated file.

    Raises:
        AssertionError: a bug, a command that takes too long, or one that refused its input and wrote all the same.
    """
    place = folder / "input"
    if target.beside:
        shutil.copytree(target.beside, place)
    file = place / (target.suffix if target.suffix[0] != "." else f"file{target.suffix}")
    file.parent.mkdir(parents=True, exist_ok=True)
    content = mutate(target.content, chance)
    file.write_bytes(content)
    root = folder / "run"
    if target.base:
        shutil.copytree(target.base, root)
    before = _results(root) if target.base else {}
    try:
        words = target.words(file, root, chance)
        code, said = _timed(words)
        shown = f"{target.name}: exit {code} of {words}: {said[-1500:]}\n{content[:3000]!r}"
        assert code == 0 or code in REFUSALS, shown
        assert "Traceback" not in said, shown
        if code in (2, 3, 4) and target.base:
            assert _results(root) == before, f"changed by a refused input: {shown}"
        if code:
            assert "Error: " in said, shown
            assert target.base or not Run(root).exists, f"made by a refused input: {shown}"
    finally:
        shutil.rmtree(folder)
    return code


def _results(root: Path) -> dict[str, bytes]:
    """The files of a run but for the lock and the folders of unfinished stages."""
    return {name: raw for name, raw in tree(root).items() if not name.startswith(".work/")}


def _hashed(base: Path, root: Path) -> set[Path]:
    """The files below ``root``, a copy of the run ``base``, whose hashes its stages have recorded."""
    records = base.rglob("stage.json")
    return {
        root / path.parent.relative_to(base) / name
        for path in records
        for name in json.loads(path.read_text())["outputs"]
    }


def damage_one(base: Path, chance: Random, folder: Path) -> int:
    """The exit code of a command on a run one of whose files was mutated.

    Raises:
        AssertionError: as for ``run_one``; or `verify` finds nothing where an artefact has other bytes.
    """
    root = folder / "run"
    shutil.copytree(base, root)
    # Forms are people's; what is below .work is no result.
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and "export" not in path.parts]
    file = chance.choice([path for path in files if path.name != ".lock"])
    content = file.read_bytes()
    changed = mutate(content, chance)
    file.write_bytes(changed)
    words = chance.choice(
        [["status"], ["verify"], ["verify"], ["annotate", "status"], ["annotate", "export", "-o", "-"]]
    )
    try:
        code, said = _timed([*words, "--run", str(root)])
        shown = f"exit {code} of {words} with {file.relative_to(root)}: {said[-1500:]}\n{changed[:3000]!r}"
        assert code in (0, 1, 4), shown
        assert "Traceback" not in said, shown
        assert code or words != ["verify"] or changed == content or file not in _hashed(base, root), shown
    finally:
        shutil.rmtree(folder)
    return code


def _timed(words: Sequence[str]) -> tuple[int, str]:
    with _patience(words):
        return _call(*words)


def _call(*words: object) -> tuple[int, str]:
    """(exit code, what was printed) of a command in this process."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    with (
        patch.object(sys, "argv", ["metaselect", *map(str, words)]),
        redirect_stdout(out),
        redirect_stderr(out),
    ):
        code = main()
    return code, out.buffer.getvalue().decode()


@contextmanager
def _patience(words: Sequence[str]) -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise AssertionError(f"longer than {PATIENCE} s: {words}")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(
    inputs: int, seed: int, folder: Path, known: Sequence[Target] | None = None
) -> tuple[dict[str, Counter[int]], list[str]]:
    """How often each target ended with each exit code, and every fault; each input has a generator of its own.

    Args:
        inputs: how many, in turn for the targets.
        seed: of all of them.
        folder: for files.
        known: the targets, where they were made before.
    """
    every = targets(folder / "good") if known is None else known
    bases = [target.base for target in every if target.base]
    codes: dict[str, Counter[int]] = {
        name: Counter() for name in (*(target.name for target in every), ARTEFACT)
    }
    faults = []
    for number in range(inputs):
        place, chance = number % (len(every) + 1), Random(f"{seed}-{number}")
        try:
            if place == len(every):
                codes[ARTEFACT][damage_one(chance.choice(bases), chance, folder / "work")] += 1
            else:
                codes[every[place].name][run_one(every[place], chance, folder / "work")] += 1
        except AssertionError as error:
            faults.append(f"input {number} of seed {seed}: {error}")
    return codes, faults


def report(codes: dict[str, Counter[int]]) -> str:
    """A table: a row for each target, a column for each exit code."""
    columns = sorted({code for counts in codes.values() for code in counts})
    lines = [f"{'':24}" + "".join(f"{f'exit {code}':>8}" for code in columns)]
    total: Counter[int] = sum(codes.values(), Counter())
    for name, counts in [*codes.items(), ("all", total)]:
        lines.append(f"{name:24}" + "".join(f"{counts[code]:8}" for code in columns))
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        counted, found = fuzz(given.inputs, given.seed, Path(scratch))
        print(report(counted))
        print("\n\n".join([f"{len(found)} faults", *found]))
        sys.exit(bool(found))
