"""Images of more than 8 bits: one range for the pool, the same for training, tests, hashes and people."""

import io
import json
import struct
import zlib
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import metaselect
from data_makers import Listener, Picture, encode, made, pictures, samples_table, stage_bytes, write_images
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metaselect.data.depth import PixelRange, PixelValues
from metaselect.data.images import content_hash, decode, deep_values, probe
from metaselect.data.ingest import JOURNAL
from metaselect.data.originals import write_originals
from metaselect.data.readers.base import UnusableContent
from metaselect.data.store import load_pool
from metaselect.data.stored.preprocess import Preprocess
from metaselect.data.test_set import read_test_set
from metaselect.data.thumbnails import thumbnails
from metaselect.data_options import IngestOptions, ReadOptions
from metaselect.errors import UsageError

DRAW = np.random.default_rng(3)
SIXTEEN = PixelRange(0, 65535)


def whole(top: int, low: int = 0, kind: Any = np.uint16, side: int = 12) -> list[np.ndarray]:
    """Eight images that hold numbers from ``low`` to ``top``, both in one of them."""
    images = [DRAW.integers(low, top, (side, side), endpoint=True).astype(kind) for _ in range(8)]
    images[3][0, :2] = low, top
    return images


def png(values: np.ndarray) -> bytes:
    """A PNG file of 16 bits a channel, which Pillow cannot write: (H, W, C) with C of 2, 3 or 4."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    made = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def tiff(values: np.ndarray, order: str, *, deflate: bool = False) -> bytes:
    """A TIFF file of 16-bit colour, (H, W, 3) or with opacity (H, W, 4), in the byte order "<" or ">"."""
    height, width, channels = values.shape
    body = values.astype(f"{order}u2").tobytes()
    body = zlib.compress(body) if deflate else body
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    tags = {
        256: width,
        257: height,
        258: 0,
        259: 8 if deflate else 1,
        262: 2,
        273: 0,
        277: channels,
        278: height,
    }
    tags |= {279: len(body), **({338: 2} if channels == 4 else {})}
    start = 8 + 2 + 12 * len(tags) + 4
    tags[258], tags[273] = start, start + len(bits)
    out = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    for tag, value in tags.items():
        long = tag in (258, 273, 279)
        count = channels if tag == 258 else 1
        out += struct.pack(f"{order}HHI", tag, 4 if long and tag != 258 else 3, count)
        out += struct.pack(f"{order}I", value) if long else struct.pack(f"{order}HH", value, 0)
    return out + struct.pack(f"{order}I", 0) + bits + body


def folder(root: Path, raws: list[bytes], suffix: str = "png") -> Path:
    labels = [("cat", "dog")[number % 2] for number in range(len(raws))]
    files = enumerate(zip(labels, raws, strict=True))
    return write_images(root, [Picture(f"{label}/{n}.{suffix}", label, raw) for n, (label, raw) in files])


def hash_of(path: Path) -> str:
    """The content hash of an image file of 8 bits."""
    image = decode(path.read_bytes())
    assert not isinstance(image, UnusableContent)
    return content_hash(image)


def by_source(run: Any) -> dict[str, np.ndarray]:
    """File name without suffix -> stored pixels (C, H, W)."""
    pool = load_pool(run)
    return {Path(str(row["source"])).stem: pool.inputs[n] for n, row in enumerate(samples_table(run))}


KINDS: dict[str, tuple[list[np.ndarray], str, tuple[float, float]]] = {
    "16 bits that hold 8": (whole(255), "PNG", (0, 255)),
    "16 bits that hold 10": (whole(600), "PNG", (0, 1023)),
    "16 bits that hold 12": (whole(4095), "PNG", (0, 4095)),
    "16 bits in full": (whole(65535), "PNG", (0, 65535)),
    "16 bits in TIFF": (whole(16000), "TIFF", (0, 16383)),
    "32-bit integers that hold 8": (whole(255, kind=np.int32), "TIFF", (0, 255)),
    "32-bit integers": (whole((1 << 19) + 5, kind=np.int32), "TIFF", (0, (1 << 20) - 1)),
    "integers below 0": (whole(3000, -1000, kind=np.int32), "TIFF", (-1000, 3000)),
    "floats from 0 to 1": ([x.astype(np.float32) / 255 for x in whole(255)], "TIFF", (0, 1)),
    "floats from 0 to 255": ([x.astype(np.float32) for x in whole(255)], "TIFF", (0, 255)),
    "other floats": ([x.astype(np.float32) / 4 for x in whole(4000, -40, kind=np.int32)], "TIFF", (-10, 1000)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_scaled_by_the_range_of_the_pool(tmp_path: Path, kind: str) -> None:
    images, form, (low, high) = KINDS[kind]
    ears = Listener()
    data = folder(tmp_path / "d", [encode(image, form) for image in images], form.lower())
    run = made(data, tmp_path / "r", ears)
    assert json.loads(run.path("data/preprocess.json").read_text())["pixel_range"] == [low, high]
    for name, pixels in by_source(run).items():
        exact = (images[int(name)].astype(np.float64) - low) / (high - low) * 255
        assert np.abs(pixels[0] - exact).max() <= 0.5 + 1e-9
    assert max(pixels.max() for pixels in by_source(run).values()) > 100
    assert ears.warnings == []
    assert any("8 images have more than 8 bits" in note and "--pixel-range" in note for note in ears.notes)


DEEP_FORMS = [
    ("png", 2),
    *((form, c) for form in ("png", "tiff <", "tiff >", "tiff < deflate") for c in (3, 4)),
]


@pytest.mark.parametrize(("form", "channels"), DEEP_FORMS)
def test_colour_of_16_bits_keeps_its_values(form: str, channels: int) -> None:
    values = DRAW.integers(0, 4096, (5, 7, channels)).astype(np.uint16)
    alpha = channels in (2, 4)
    if alpha:
        values[..., -1] = 65535
        values[0, 0, -1] = 0
    raw = png(values) if form == "png" else tiff(values, form.split()[1], deflate="deflate" in form)
    plain = values[..., 0] if channels == 2 else values[..., :3]
    np.testing.assert_array_equal(deep_values(raw), plain)
    shape = probe(raw)
    assert not isinstance(shape, UnusableContent)
    assert (shape.deep, shape.grey) == (True, channels == 2)
    image = decode(raw, PixelRange(0, 4095))
    assert not isinstance(image, UnusableContent)
    assert image.mode == ("L" if channels == 2 else "RGB")
    expected = np.rint(plain / 4095 * 255)
    if alpha:
        expected[0, 0] = 255  # white shows where nothing covers it
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_colour_of_12_bits_in_16_is_not_black(tmp_path: Path) -> None:
    values = DRAW.integers(0, 4096, (6, 9, 9, 3)).astype(np.uint16)
    run = made(folder(tmp_path / "d", [png(image) for image in values]), tmp_path / "r")
    assert Preprocess.read(run.path("data/preprocess.json")).pixel_range == (0, 4095)
    for name, pixels in by_source(run).items():
        np.testing.assert_array_equal(pixels, np.rint(values[int(name)] / 4095 * 255).transpose(2, 0, 1))


def test_images_of_8_bits_stay_as_they_are_beside_deep_ones(tmp_path: Path) -> None:
    deep, plain = whole(4095)[:4], [x.astype(np.uint8) for x in whole(200)[:4]]
    run = made(folder(tmp_path / "d", [encode(image) for image in (*deep, *plain)]), tmp_path / "r")
    found = by_source(run)
    for number, image in enumerate(plain, start=4):
        np.testing.assert_array_equal(found[str(number)][0], image)
    np.testing.assert_array_equal(found["1"][0], np.rint(deep[1] / 4095 * 255))
    shallow = made(write_images(tmp_path / "s", pictures(6)), tmp_path / "rs")
    assert json.loads(shallow.path("data/preprocess.json").read_text())["pixel_range"] is None


def test_the_order_of_files_changes_no_byte(tmp_path: Path) -> None:
    raws = [encode(image) for image in whole(900)]
    found = []
    for turn in range(3):
        table = tmp_path / f"{turn}/m.csv"
        folder(table.parent / "d", raws)
        order = np.random.default_rng(turn).permutation(8)
        rows = [f"i{n},d/{('cat', 'dog')[n % 2]}/{n}.png,{('cat', 'dog')[n % 2]}" for n in order]
        table.write_text("\n".join(["sample_id,image,label", *rows]))
        found.append(stage_bytes(made(table, tmp_path / f"r{turn}").path("data")))
    assert found[0] == found[1] == found[2]


@given(st.lists(st.integers(-70_000, 70_000), min_size=1, max_size=40), st.booleans(), st.randoms())
def test_a_range_holds_all_values_and_depends_on_no_order(numbers: Any, floats: bool, random: Any) -> None:
    images = [np.array([[n]], np.float32 if floats else np.int32) for n in numbers]
    ranges: list[PixelRange] = []
    for _ in range(2):
        values = PixelValues()
        for image in images:
            values.add(image)
        found = values.range()
        assert found is not None
        ranges.append(found)
        random.shuffle(images)
    low, high = ranges[0]
    assert ranges[0] == ranges[1]
    assert low <= min(numbers) <= max(numbers) <= high
    assert low < high
    levels = ranges[0].levels(np.array(sorted(numbers)))
    assert (np.diff(levels.astype(int)) >= 0).all()


HOT = whole(1000, side=20)
for hot in HOT:
    hot[0, 0] = 65535
LOSSES = {
    "a bright pixel in each image": (
        HOT,
        "take only 5 of 256 grey levels",
    ),
    "a bright image among dark ones": (
        [DRAW.integers(0, 999, (4, 4)).astype(np.uint16) for _ in range(300)] + [HOT[0][:4, :4] * 0 + 65535],
        "take only 5 of",
    ),
    "hardly any contrast": (
        [np.full((12, 12), 7 + n, np.uint16) for n in range(6)],
        "take only 6 of 256 grey levels",
    ),
    "4 bits in files of 16": (whole(15), "take only 16 of 256 grey levels"),
    "two kinds": ([HOT[0].astype(np.int32), np.full((12, 12), 0.5, np.float32)], "1 have fractions"),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_what_gets_lost_is_said_with_its_remedy(tmp_path: Path, kind: str) -> None:
    images, words = LOSSES[kind]
    ears = Listener()
    made(folder(tmp_path / "d", [encode(image, "TIFF") for image in images], "tif"), tmp_path / "r", ears)
    assert any(words in warning for warning in ears.warnings), ears.warnings
    assert all("--pixel-range" in warning or "Convert" in warning for warning in ears.warnings)


def test_black_and_white_alone_is_no_loss(tmp_path: Path) -> None:
    ears = Listener()
    masks = [DRAW.integers(0, 2, (9, 9)).astype(np.uint16) * 65535 for _ in range(6)]
    made(folder(tmp_path / "d", [encode(mask) for mask in masks]), tmp_path / "r", ears)
    assert ears.warnings == []


def test_an_option_sets_the_range_and_is_part_of_the_key(tmp_path: Path) -> None:
    images = whole(1000, side=20)
    for image in images:
        image[0, 0] = 65535
    data, run = folder(tmp_path / "d", [encode(image) for image in images]), tmp_path / "r"
    done = metaselect("ingest", data, "--pixel-range", "0,1000", "--json", run=run)
    assert done.json["pixel_range"] == [0, 1000]
    assert "0 to 1000 becomes 0 to 255" in done.err
    assert "grey levels" not in done.err
    from metaselect.run.layout import Run

    found = by_source(Run(run))["2"][0]
    np.testing.assert_array_equal(found, np.rint(np.minimum(images[2], 1000) / 1000 * 255))
    assert "is up to date" in metaselect("ingest", data, "--pixel-range", "0,1000", run=run).err
    changed = metaselect("ingest", data, "--pixel-range", "0,2000", run=run, code=4)
    assert "pixel_range: [0.0, 1000.0] -> [0.0, 2000.0]" in changed.err
    # The data elsewhere is compared with the run's own range, also where no option is given.
    moved = folder(tmp_path / "elsewhere", [encode(image) for image in images])
    assert "comparing the contents" in metaselect("warmup", moved, "--epochs", 1, run=run).err
    described = json.loads((run / "warmup/model.json").read_text())
    assert described["preprocess"]["pixel_range"] == [0, 1000]


@pytest.mark.parametrize("text", ["5", "a,b", "1,2,3", "4,4", "9,1", "0,inf", "nan,1", ""])
def test_a_wrong_range_is_refused(tmp_path: Path, text: str) -> None:
    data = write_images(tmp_path / "d", pictures(4))
    refused = metaselect("ingest", data, f"--pixel-range={text}", run=tmp_path / "r", code=2)
    assert "--pixel-range is" in refused.err
    assert not (tmp_path / "r").exists()


def test_negative_bounds_can_be_given(tmp_path: Path) -> None:
    data = folder(tmp_path / "d", [encode(image, "TIFF") for image in whole(3000, -1000, np.int32)], "tif")
    done = metaselect("ingest", data, "--pixel-range", "-160,240", "--json", run=tmp_path / "r")
    assert done.json["pixel_range"] == [-160, 240]
    assert "what lies outside the range -160 to 240 becomes black or white" in done.err
    with pytest.raises(UsageError):
        IngestOptions(pixel_range=(1.0, 1.0))


def test_an_interrupted_ingest_goes_on_with_the_same_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metaselect.data import ingest as module

    raws = [encode(image) for image in whole(3000)]
    data = folder(tmp_path / "d", raws)
    expected = stage_bytes(made(data, tmp_path / "whole").path("data"))
    monkeypatch.setattr(module, "BLOCK", 2)
    right, calls = module.prepare, []

    def fails(*words: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return right(*words)

    monkeypatch.setattr(module, "prepare", fails)
    with pytest.raises(KeyboardInterrupt):
        made(data, tmp_path / "r")
    (journal,) = (tmp_path / "r").rglob(JOURNAL)
    assert json.loads(journal.read_text())["target"]["pixel_range"] == [0, 4095]
    calls[:] = [1] * 6
    ears = Listener()
    assert stage_bytes(made(data, tmp_path / "r", ears).path("data")) == expected
    assert any("Resuming at sample 5 of 8" in note for note in ears.notes)


@pytest.mark.parametrize("kind", ["16 bits that hold 12", "floats from 0 to 1"])
def test_people_see_what_is_trained_on(tmp_path: Path, kind: str) -> None:
    images, form, scale = KINDS[kind]
    data = folder(tmp_path / "d", [encode(image, form) for image in images], form.lower())
    run = made(data, tmp_path / "r", image_size=6)
    rows = {str(row["sample_id"]): row for row in samples_table(run)}
    names = write_originals(run, list(rows), tmp_path / "o")
    shown = {sample_id: raw for sample_id, _, raw in thumbnails(run, list(rows))}
    for sample_id, row in rows.items():
        number = int(Path(str(row["source"])).stem)
        expected = np.rint((images[number].astype(np.float64) - scale[0]) / (scale[1] - scale[0]) * 255)
        path = tmp_path / "o" / names[sample_id]
        assert path.suffix == ".png"
        for raw in (path.read_bytes(), shown[sample_id]):
            image = Image.open(io.BytesIO(raw))
            assert (image.format, image.mode, image.size) == ("PNG", "L", (12, 12))
            assert np.abs(np.asarray(image) - expected).max() <= 0.5 + 1e-5
        assert hash_of(path) == row["content_hash"]


def test_the_page_and_the_answers_of_a_deep_pool(tmp_path: Path) -> None:
    images = whole(4095)
    run = tmp_path / "r"
    metaselect("warmup", folder(tmp_path / "d", [encode(image) for image in images]), "--epochs", 1, run=run)
    metaselect("select", "--budget", 3, "--method", "random", run=run)
    metaselect("annotate", "export", "--format", "html", "-o", tmp_path / "page.html", run=run)
    uri = (tmp_path / "page.html").read_text().partition("data:image/png;base64,")[2]
    page = np.asarray(Image.open(io.BytesIO(b64decode(uri.partition('"')[0].partition("\\")[0]))))
    assert any((page == np.rint(image / 4095 * 255)).all() for image in images)
    # A form of which only the contents are left, as after renaming: answers are matched by the hash of what was shown.
    metaselect("annotate", "export", "--format", "hf", "-o", tmp_path / "form", run=run)
    header, *lines = (tmp_path / "form/train/metadata.csv").read_text().splitlines()
    columns = header.split(",")
    content = [line.split(",")[columns.index("content_hash")] for line in lines]
    assert sorted(content) == sorted(map(hash_of, (tmp_path / "form").rglob("*.png")))
    answers = "\n".join(["sample_id,content_hash,clean_label", *(f",{each},cat" for each in content)])
    (tmp_path / "answers.csv").write_text(answers)
    done = metaselect("annotate", "import", tmp_path / "answers.csv", "--json", run=run)
    assert done.json["matched_by"]["content_hash"] == 3


def test_test_sets_are_scaled_by_the_range_of_the_pool(tmp_path: Path) -> None:
    images = whole(4095)
    pool = load_pool(made(folder(tmp_path / "d", [encode(image) for image in images]), tmp_path / "r"))
    dark = [image // 8 for image in images]  # by a rule of its own these would be scaled eight times as much
    test = folder(tmp_path / "t", [encode(image) for image in (*dark[:7], images[7])])
    ears = Listener()
    found, hashes = read_test_set(test, ReadOptions(), pool, tmp_path / "w", ears)
    stored = sorted(array[0].tobytes() for array in np.asarray(found.inputs))
    expected = [np.rint(image / 4095 * 255).astype(np.uint8) for image in (*dark[:7], images[7])]
    assert stored == sorted(array.tobytes() for array in expected)
    # The image that is in the pool as well is known by its hash.
    assert (
        len(
            set(hashes)
            & {str(row["content_hash"]) for row in samples_table(made(tmp_path / "d", tmp_path / "r"))}
        )
        == 1
    )
    assert ears.warnings == []
    bright = folder(tmp_path / "b", [encode(image * 16) for image in images])
    read_test_set(bright, ReadOptions(), pool, tmp_path / "w2", ears)
    assert any("what lies outside the range" in warning for warning in ears.warnings)


@pytest.mark.parametrize("turn", ["test", "pool", "mixed"])
@pytest.mark.parametrize(
    ("top", "warns"), [(15, True), (31, True), (255, False), (60_000, False), (65_535, False)]
)
def test_a_test_set_of_8_bits_beside_a_dark_pool_is_named(
    tmp_path: Path, top: int, warns: bool, turn: str
) -> None:
    deep = whole(top)
    run = made(folder(tmp_path / "d", [encode(image) for image in deep]), tmp_path / "r")
    plain = [image.astype(np.uint8) for image in whole(255)]
    if turn == "pool":  # the test set is the dark one
        deep, plain = whole(255), [image // 20 for image in plain]
        run = made(folder(tmp_path / "d2", [encode(image) for image in deep]), tmp_path / "r2")
        warns = True
    more = [encode(deep[0])] if turn == "mixed" else []
    ears = Listener()
    test = folder(tmp_path / "t", [*map(encode, plain), *more])
    read_test_set(test, ReadOptions(), load_pool(run), tmp_path / "w", ears)
    assert any("times as" in warning and "--pixel-range" in warning for warning in ears.warnings) == warns
    assert all(str(test) in warning for warning in ears.warnings)


def test_deep_test_images_of_a_shallow_pool_are_refused_and_not_read_dark(tmp_path: Path) -> None:
    run = tmp_path / "r"
    metaselect("warmup", write_images(tmp_path / "d", pictures(8, ("cat", "dog"))), "--epochs", 1, run=run)
    test = folder(tmp_path / "t", [encode(image) for image in whole(4095)])
    refused = metaselect("evaluate", test, run=run, code=3)
    assert "more than 8 bits a pixel, and the images of the run have 8" in refused.err


def test_pixels_that_are_no_number_stay_unusable(tmp_path: Path) -> None:
    images = [x.astype(np.float32) / 255 for x in whole(255)]
    images[2][3, 3] = np.nan
    images[5][1, 1] = np.inf
    data = folder(tmp_path / "d", [encode(image, "TIFF") for image in images], "tif")
    run = made(data, tmp_path / "r", on_bad_sample="skip")
    assert sorted(by_source(run)) == ["0", "1", "3", "4", "6", "7"]
    assert Preprocess.read(run.path("data/preprocess.json")).pixel_range == (0, 1)
    assert run.path("data/skipped.csv").read_text().count("a pixel is NaN or infinite") == 2


def test_a_description_from_before_there_were_ranges_still_reads(tmp_path: Path) -> None:
    run = made(write_images(tmp_path / "d", pictures(6)), tmp_path / "r")
    path = run.path("data/preprocess.json")
    raw = json.loads(path.read_text())
    del raw["pixel_range"]
    path.write_text(json.dumps(raw))
    assert Preprocess.read(path).pixel_range is None
