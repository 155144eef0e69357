"""The examples of docs/extending.md, registered as the page says, do what it says."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from data_makers import Listener

from metaselect import registry
from metaselect.annotation.formats.detect import detect_format
from metaselect.errors import UsageError
from metaselect.options import ExportOptions, ImportOptions, ReweightOptions, SelectOptions
from metaselect.run.layout import Run
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
    made = ModuleType(module)
    monkeypatch.setitem(sys.modules, module, made)
    exec(compile(code, file, "exec"), made.__dict__)
    monkeypatch.setitem(TABLES[table], name, path)
    return name, made


def test_a_reweighting_method(bought: Path, reporter: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    name, module = registered("REWEIGHTERS", monkeypatch)
    losses = torch.tensor([3.0, 1.0, 1.0, 2.0, 5.0])
    assert torch.equal(module.trimmed_weights(losses, 0.4), torch.tensor([0, 1, 1, 1, 0]) / 3)
    assert torch.equal(module.trimmed_weights(losses, 0.0), torch.full((5,), 0.2))
    with pytest.raises(UsageError, match="share=1 must be"):
        registry.configure(registry.REWEIGHTERS[name], ["share=1"])
    options = ReweightOptions(method=name, epochs=2, option=("share=0.4",))
    result: Any = reweight(Run(bought), options, reporter).result
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
