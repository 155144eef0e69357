"""An import that dies half-way: nothing is trained or chosen without answers that are stored, until it is repeated."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from annotation_run import add_round, answers, call, make_run, meta_set, votes_of
from command_line import REWEIGHT, metaselect, states
from test_annotate_undo import CAT_DOG, OWLS, killed_copies

from metaselect.annotation.ledger import read_ledger
from metaselect.annotation.ledger_record import InterruptedImport, require_recorded
from metaselect.annotation.votes import DONE
from metaselect.run.layout import Run

NOT_COUNTED = "has answers that meta_set.csv does not count yet"
LOST = {
    "the first import": ("meta_set.csv", "stage.json"),
    "its last file": ("stage.json",),
}


@pytest.mark.parametrize("lost", LOST)
def test_what_reads_bought_labels_waits_for_those_that_are_stored(bought: Path, lost: str) -> None:
    """As a crash leaves it between the votes and what follows from them."""
    folder = bought / "annotate"
    whole = {name: (folder / name).read_bytes() for name in ("meta_set.csv", "votes.csv")}
    for name in LOST[lost]:
        (folder / name).unlink()
    for words in (REWEIGHT, ("select", "--round", "next", "--budget", 3)):
        refused = metaselect(*words, run=bought, code=4)
        assert NOT_COUNTED in refused.err
        assert "interrupted" in refused.err
    damaged = metaselect("verify", run=bought, code=4)
    assert NOT_COUNTED in damaged.err
    assert "--force" not in damaged.err
    shown = metaselect("status", "--json", run=bought).json
    assert shown["next"].startswith("metaselect annotate import FILE")
    rows = {row["stage"]: row for row in shown["stages"]}
    assert rows["annotate"]["state"] == "interrupted"
    # The remedy that all of them name.
    step = shlex.split(refused.err.strip().rpartition("metaselect ")[2])
    metaselect(*step)
    assert {name: (folder / name).read_bytes() for name in whole} == whole
    assert states(bought, 0)["annotate"][0] == "done"
    metaselect("verify", run=bought)


def test_a_second_import_that_died_is_not_trained_on_in_part(bought: Path, tmp_path: Path) -> None:
    folder = bought / "annotate"
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    rows = before["votes.csv"].decode().splitlines()
    sample = rows[1].split(",")[0]
    other = next(
        name for name in json.loads((bought / "data/classes.json").read_text()) if name not in rows[1]
    )
    (tmp_path / "more.csv").write_text(f"sample_id,clean_label\n{sample},{other}\n")
    metaselect("annotate", "import", tmp_path / "more.csv", "--annotator", "second", run=bought)
    for name in ("meta_set.csv", "stage.json"):
        (folder / name).write_bytes(before[name])
    assert NOT_COUNTED in metaselect(*REWEIGHT, run=bought, code=4).err
    again = metaselect(
        "annotate", "import", tmp_path / "more.csv", "--annotator", "second", "--json", run=bought
    )
    assert again.json["new_votes"] == 0
    assert again.json["tied"] == 1
    assert states(bought, 0)["annotate"][0] == "done"


@pytest.mark.slow
def test_an_import_that_is_killed_at_any_operation_is_seen_and_can_be_repeated(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_round(run, 1, ["s3", "s1", "s2", "s0"])
    assert call(run, "import", answers(run, CAT_DOG, "first.csv")) == 0
    second = answers(run, OWLS, "second.csv")
    whole = Run(Path(shutil.copytree(run.root, tmp_path / "whole")))
    assert call(whole, "import", second) == 0
    seen = set()
    for one in killed_copies(run, tmp_path, "annotate", "import", second):
        verdicts = read_ledger(one).verdicts.items()
        stored = {sample_id: each.clean_label for sample_id, each in verdicts if each.status == DONE}
        try:
            require_recorded(one)
            seen.add("done")
            assert stored == meta_set(one)
        except InterruptedImport:
            seen.add("interrupted")
            assert states(one.root, 0)["annotate"][0] == "interrupted"
        assert call(one, "import", second) == 0
        assert meta_set(one) == meta_set(whole)
        assert votes_of(one) == votes_of(whole)
        require_recorded(one)
    assert seen == {"done", "interrupted"}
