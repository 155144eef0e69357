"""The examples of docs/extending.md, registered as the page says, do what it says."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer
from data_makers import Listener

from metaselect import options, registry
from metaselect.annotation.formats.detect import detect_format
from metaselect.errors import ArtefactError, UsageError
from metaselect.options import ExportOptions, ImportOptions, ReweightOptions, SelectOptions
from metaselect.run import artefacts, stage_names
from metaselect.run.layout import Run
from metaselect.run.schema import Folder
from metaselect.run.stage_names import FOLDERS
from metaselect.stages import status, table
from metaselect.stages.annotate.exchange import export, import_file
from metaselect.stages.reweight.reweight import reweight
from metaselect.stages.select.select import select

PAGE = (Path(__file__).resolve().parents[1] / "docs/extending.md").read_text(encoding="utf-8")
TABLES = {"REWEIGHTERS": registry.REWEIGHTERS, "SELECTORS": registry.SELECTORS, "FORMATS": registry.FORMATS}


def registered(table: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ModuleType]:
    """The name and the module of the example for a table, both made from the page."""
    (entry,) = re.findall(
        rf"with this line in `{table}`:\n\n```python\n\"([^\"]+)\": \"([^\"]+)\",\n```", PAGE
    )
    name, path = entry
    module = path.partition(":")[0]
    file = f"{module.replace('.', '/')}.py"
    (code,) = re.findall(rf"`{file}`.*?\n```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.setitem(TABLES[table], name, path)
    return name, executed(code, module, monkeypatch)


def executed(code: str, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of this code, importable under this name until the test ends."""
    made = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(code, name, "exec"), made.__dict__)
    return made


def test_a_reweighting_method(bought: Path, reporter: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    name, module = registered("REWEIGHTERS", monkeypatch)
    losses = torch.tensor([3.0, 1.0, 1.0, 2.0, 5.0])
    assert torch.equal(module.trimmed_weights(losses, 0.4), torch.tensor([0, 1, 1, 1, 0]) / 3)
    assert torch.equal(module.trimmed_weights(losses, 0.0), torch.full((5,), 0.2))
    with pytest.raises(UsageError, match="share=1 must be"):
        registry.configure(registry.REWEIGHTERS[name], ["share=1"])
    settings = ReweightOptions(method=name, epochs=2, option=("share=0.4",))
    result: Any = reweight(Run(bought), settings, reporter).result
    assert (result["name"], result["epochs"], result["zero_batches"]) == (name, 2, 0)
    assert (bought / f"reweight/{name}/weights.parquet").is_file()


def test_a_selector(warm: Path, reporter: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    name, module = registered("SELECTORS", monkeypatch)
    probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
    pool = module.PoolFeatures((probs,), (), torch.zeros(4, dtype=torch.int64))
    chosen = module.Rarest().choose(pool, 2, torch.tensor([0]), torch.Generator())
    assert chosen.ranked.tolist() == [1, 2]
    result: Any = select(Run(warm), SelectOptions(budget=5, method=name), reporter).result
    assert result["selected"] == 5


def test_an_exchange_format(
    warm: Path, tmp_path: Path, reporter: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = registered("FORMATS", monkeypatch)
    run, file = Run(warm), tmp_path / "form"
    select(run, SelectOptions(budget=4, method="random"), reporter)
    made = export(run, ExportOptions(output=str(file), format=name), reporter)
    assert made.path is not None
    first, *lines = made.path.read_text().splitlines()
    made.path.write_text("\n".join([first, *(f"{line} 7" for line in lines[:3]), *lines[3:]]))
    assert detect_format(made.path.read_bytes(), "form") == name
    result: Any = import_file(run, str(made.path), ImportOptions(), reporter).result
    assert (result["matched"], result["missing"]) == (3, 1)


def test_a_stage(finished: Path, reporter: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    section = PAGE[PAGE.index("## A stage") :]
    rows, fields, stage, entry, cli = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    # What the page puts into existing files is put into their modules.
    for target, code in ((artefacts, rows), (options, fields)):
        names = dict(vars(target))
        exec(compile(code, target.__name__, "exec"), names)
        for name in names.keys() - vars(target).keys():
            monkeypatch.setitem(vars(target), name, names[name])
    folder: Folder = vars(artefacts)["LABELS"]
    monkeypatch.setitem(FOLDERS, folder.kind, folder)
    monkeypatch.setattr(stage_names, "ARTEFACTS", (*stage_names.ARTEFACTS, vars(artefacts)["LABEL_COUNTS"]))
    row = eval(entry, {**vars(artefacts), "StageEntry": table.StageEntry})
    for module in (table, status):
        monkeypatch.setattr(module, "STAGES", (*table.STAGES, row))
    executed(stage, "metaselect.stages.labels", monkeypatch)
    app = typer.Typer()
    executed(cli, "metaselect.cli.labels", monkeypatch).register(app)
    command = typer.main.get_command(app)

    def call(*words: str) -> None:
        command.main([*words, "--run", str(finished)], standalone_mode=False)

    call()
    counts = (finished / "labels/counts.csv").read_text().splitlines()
    assert counts[0] == "class,samples"
    assert sum(int(line.split(",")[1]) for line in counts[1:]) == 200
    shown: Any = status.status(Run(finished), reporter).result["stages"]
    assert {each["stage"]: each["state"] for each in shown}["labels"] == "done"
    with pytest.raises(ArtefactError, match="at_least: 0 -> 30"):
        call("--at-least", "30")
    call("--at-least", "30", "--force")
    assert len((finished / "labels/counts.csv").read_text().splitlines()) < len(counts)
