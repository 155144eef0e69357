"""verify --rerun: run every stage again in a copy, from its recorded inputs, and compare the bytes."""

import os
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import metaselect
from metaselect.errors import ConditionUnmet
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import META_SET, RECORD, RUN_INFO, SELECT, WARMUP
from metaselect.run.environment import environment_differences
from metaselect.run.files import sha256_file
from metaselect.run.layout import Run
from metaselect.run.record import StageRecord
from metaselect.run.stage import Stage
from metaselect.run.stage_names import folder_of
from metaselect.stages.table import STAGES

TRUST = "--trust-model"
FIRST_ROUND = SELECT.name(number=1)
PACKAGE = str(Path(metaselect.__file__).parents[1])


def rerun(run: Run, report: Reporter) -> Outcome:
    """Run the recorded command of each finished stage in a temporary copy, and compare every artefact.

    Copied without a check: ``data/`` (its source is not in the run), ``annotate/`` (people's answers) and rounds that
    were selected after answers (the answers of that time are not on record).

    Raises:
        ConditionUnmet: a stage fails, or gives other bytes, naming the files.
    """
    compared: list[Json] = []
    with TemporaryDirectory(prefix="metaselect-verify-") as scratch:
        copy = Run.at(Path(scratch) / "run")
        copy.root.mkdir()
        shutil.copy2(run.path(RUN_INFO.path()), copy.path(RUN_INFO.path()))
        for entry, name in ((row, name) for row in STAGES for name in row.finished(run)):
            stage = run.stage(name)
            record = stage.require()
            # A later round depends on the answers of its time, which today's votes need not be.
            later = stage.kind == SELECT.kind and (
                name != FIRST_ROUND or META_SET.path() in record.key.inputs
            )
            copied = later or not entry.rerun
            if stage.changed_inputs() and not copied:
                raise ConditionUnmet(
                    f"{name} is stale: {', '.join(stage.changed_inputs())} changed since.",
                    f"First run: {stage.command()}",
                )
            if later:
                report.note(f"{name} was selected after labels were bought; it is copied as it is.")
            elif not copied:
                report.note(f"Running {name} again.")
                _run_again(stage, copy, run)
                compared.append(name)
            # So that the next stage starts from the run's own files, and each difference is reported at its stage.
            shutil.rmtree(copy.path(name), ignore_errors=True)
            shutil.copytree(stage.folder, copy.path(name))
    return Outcome({"run": str(run.root), "recomputed": compared})


def _run_again(stage: Stage, copy: Run, original: Run) -> None:
    """Run a stage's recorded command in the copy; relative paths in it start at the working folder of this process.

    Raises:
        ConditionUnmet: it fails, or gives other bytes.
        UsageError: it would run code of a model that this command line did not allow.
    """
    record = stage.require()
    words = shlex.split(stage.command())[1:-2]  # less the program's name and --run RUN
    words = [word for word in words if word != TRUST]  # a record cannot allow code; this command line can
    _check_models(words, original)
    words += [TRUST] if original.trusts is None and stage.kind != WARMUP.kind else []
    words_of_kind = folder_of(stage.name).command.split()
    if len(words_of_kind) == 1 and len(words) > 1 and not words[1].startswith("-"):
        del words[1]  # the DATA of warmup, which the run holds
    # -P: without it, a module in the working folder would be imported in place of one of Python's own.
    command = [sys.executable, "-P", "-m", "metaselect", *words, "--run", str(copy.root.resolve())]
    # Sums in another number of threads are rounded otherwise.
    environment = os.environ | {"OMP_NUM_THREADS": str(record.details["threads"])}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [PACKAGE, os.environ.get("PYTHONPATH")]))
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    made = copy.path(stage.name)
    if not (made / RECORD).is_file():
        raise ConditionUnmet(f"{stage.name} could not be run again: {process.stderr.strip()[-500:]}")
    differing = [
        name
        for name, expected in record.outputs.items()
        if not (made / name).is_file() or sha256_file(made / name) != expected.sha256
    ]
    if differing:
        raise ConditionUnmet(
            f"{stage.name} gives other bytes when it is run again: {', '.join(differing)}.", _reason(record)
        )


def _reason(record: StageRecord) -> str:
    """Why a stage may give other bytes here: what differs between its process and this one."""
    import torch  # noqa: F401  # so that the environment has what torch knows of the processor

    changed = environment_differences(record.details)
    if not changed:
        return "Versions, processor and threads are those of its record, so its files or its record were changed."
    return f"It was made with {', '.join(changed)}: sums are rounded otherwise there."


def _check_models(words: list[str], run: Run) -> None:
    """Check that a recorded command names no code of a model that may not run.

    Raises:
        UsageError: it does.
    """
    names = [word.partition("=")[2] for word in words if word.startswith("--model=")]
    names += [value for word, value in pairwise(words) if word == "--model"]
    for name in names:
        run.require_trust(name)
