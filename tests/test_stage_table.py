"""The table of stages: its rows are true, and status and verify need nothing else to know a stage."""

import json
from dataclasses import fields, is_dataclass
from inspect import signature
from pathlib import Path

import pytest
from annotation_run import make_run
from command_line import metaselect
from data_makers import Listener

from metaselect.cli.main import COMMAND_ORDER
from metaselect.options import key_options
from metaselect.registry import load
from metaselect.run import artefacts, stage_names
from metaselect.run.artefacts import FANOUT, RECORD
from metaselect.run.key import StageKey
from metaselect.run.layout import Run
from metaselect.run.record import write_record
from metaselect.run.schema import Artefact, Folder
from metaselect.run.stage_names import ARTEFACTS, FOLDERS
from metaselect.stages import status, table
from metaselect.stages.table import STAGES, StageEntry, entry_of

REPORT = Folder("report/<name>", "report")


@pytest.mark.parametrize("entry", STAGES, ids=lambda entry: entry.name)
def test_a_row_names_code_that_is_there(entry: StageEntry) -> None:
    options = load(entry.options)
    assert is_dataclass(options)
    function = load(entry.function)
    (annotation,) = [
        parameter.annotation
        for parameter in signature(function).parameters.values()
        if parameter.annotation is options
    ]
    assert annotation is options
    for path in (entry.closed, entry.unread):
        assert not path or callable(load(path))
    assert entry.command in COMMAND_ORDER
    assert entry.summary.endswith(".")


def test_every_folder_of_the_artefacts_has_a_row() -> None:
    assert [entry.folder for entry in STAGES] == list(FOLDERS.values())
    readers = {reader for artefact in ARTEFACTS for reader in artefact.readers}
    assert readers == {entry.name for entry in STAGES if entry.inputs}


@pytest.mark.parametrize("entry", STAGES, ids=lambda entry: entry.name)
def test_the_options_of_a_row_are_those_on_record(entry: StageEntry, finished: Path) -> None:
    run = Run(finished)
    if entry.folder is FANOUT:  # which the finished run lacks
        metaselect("fanout", run=finished)
    names = entry.finished(run)
    assert names
    for name in names:
        options = json.loads(run.path(f"{name}/{RECORD}").read_text())["options"]
        wanted = set(key_options(load(entry.options)())) if not entry.by_people else set()
        assert wanted <= options.keys()
        assert len(fields(load(entry.options))) > 0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of a program that has one stage more."""
    monkeypatch.setitem(FOLDERS, REPORT.kind, REPORT)
    row = StageEntry(
        REPORT, "metaselect.data_options:EvaluateOptions", "metaselect.stages.report:report", "Report."
    )
    page = Artefact(REPORT, "page.html", (), "the report", "report")
    monkeypatch.setattr(stage_names, "ARTEFACTS", (*ARTEFACTS, page))
    for module in (table, status):
        monkeypatch.setattr(module, "STAGES", (*STAGES, row))
    made = make_run(tmp_path / "run")
    made.path("report/first").mkdir(parents=True)
    made.path("report/first/page.html").write_text("<p>")
    inputs = {artefacts.SAMPLES.path(): made.stage("data").verified(artefacts.SAMPLES.path())}
    write_record(
        made.path("report/first"), StageKey({}, inputs), {"command": "metaselect report --name first"}
    )
    return made


def states(run: Run) -> dict[str, str]:
    result = status.status(run, Listener()).result
    assert isinstance(result["stages"], list)
    return {row["stage"]: row["state"] for row in result["stages"]}  # type: ignore[index, call-overload, misc]


def test_a_new_row_is_all_that_status_and_verify_need(run: Run) -> None:
    assert entry_of("report/first").name == "report"
    assert states(run)["report/first"] == "done"
    before = status.verify(run, Listener()).result["artefacts"]
    run.path("report/first/page.html").write_text("<P>")
    assert states(run)["report/first"] == "damaged"
    assert status.status(run, Listener()).result["next"] == f"metaselect report --force {run.flag}"
    run.path("report/first/page.html").write_text("<p>")
    write_record(run.path("report/second"), StageKey({}, {}), {})
    assert status.verify(run, Listener()).result["artefacts"] == before


def test_a_new_stage_is_stale_when_its_inputs_moved(run: Run) -> None:
    samples = run.path(artefacts.SAMPLES.path())
    key = run.stage("data").require().key
    samples.write_bytes(samples.read_bytes() + b"\n")
    write_record(run.path("data"), key, {})
    assert states(run)["report/first"] == "stale"
