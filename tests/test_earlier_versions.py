"""Runs that earlier versions made, a folder of ``runs`` each: every command reads them, or refuses them in a sentence.

They were made on 60 points of three Gaussian classes, with ``warmup``, ``select --budget 12``, ``annotate simulate``,
``reweight --folds 2`` and ``evaluate``, in a folder that held ``run``. A version that changes what a run holds adds its
own.
"""

import json
import shutil
from pathlib import Path

import pytest
from command_line import metaselect, tree

from metaselect.run.artefacts import LAYOUT_VERSION

RUNS = Path(__file__).with_name("runs")
MADE = sorted(path.name for path in RUNS.iterdir() if path.is_dir())


@pytest.mark.parametrize("version", MADE)
def test_a_run_of_an_earlier_version_is_read_and_gone_on_with(version: str, tmp_path: Path) -> None:
    run = Path(shutil.copytree(RUNS / version, tmp_path / "run"))
    info = json.loads((run / "run.json").read_text())
    assert info["metaselect"] == version
    if info["layout_version"] != LAYOUT_VERSION:
        said = metaselect("status", run=run, code=4).err
        assert f"of MetaSelect {version}" in said
        return
    before = tree(run)
    shown = metaselect("status", "--json", run=run).json
    assert {row["state"] for row in shown["stages"]} == {"done"}
    metaselect("verify", run=run)
    metaselect("annotate", "status", run=run)
    metaselect("explain", "sample-001", run=run)
    metaselect("export", "-o", tmp_path / "cleaned", run=run)
    assert tree(run) == before
    metaselect("reweight", "--method", "uniform", "--folds", 0, run=run)
    metaselect("evaluate", RUNS / "features_test.parquet", "--name", "again", run=run)
    metaselect("select", "--round", "next", "--budget", 3, run=run)
    metaselect("verify", run=run)
    assert tree(run).items() >= {item for item in before.items() if not item[0].startswith("select/stage")}
