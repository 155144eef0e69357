"""The re-weighting that a command works on: the one that is named, or the one to prefer. No torch."""

from metaselect.errors import ArtefactError, UsageError
from metaselect.registry import BASELINE, PREFERRED
from metaselect.run.artefacts import ISSUES, RECORD, REWEIGHT
from metaselect.run.layout import Run
from metaselect.text import examples


def reweighting_with_issues(run: Run, wanted: str | None) -> str:
    """The name of a finished re-weighting that suggests labels: the one that is wanted, else `auto`, else the only one.

    Raises:
        UsageError: there is none of that name, or several to choose from.
        ArtefactError: there is none at all, or it was made before ``issues.parquet`` was.
    """
    names = [stage.partition("/")[2] for stage in run.stage_names(REWEIGHT.kind)]
    names = [name for name in names if run.path(f"{REWEIGHT.name(name=name)}/{RECORD}").is_file()]
    name = _chosen(run, names, wanted)
    stage = run.stage(REWEIGHT.name(name=name))
    if ISSUES.within() not in stage.require().outputs:
        raise ArtefactError(
            f"{REWEIGHT.name(name=name)} was made by a version that suggested no labels.",
            f"Run: {stage.command()} --force",
        )
    return name


def _chosen(run: Run, names: list[str], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in names:
            there = f"there are {examples(names)}" if names else "there is none"
            raise UsageError(
                f"--name {wanted} is no re-weighting of the run: {there}.", "Name one of the run."
            )
        return wanted
    if not names:
        raise ArtefactError(f"{run.root} has no re-weighting.", f"First run: metaselect reweight {run.flag}")
    candidates = [name for name in names if name != BASELINE and not _is_oracle(run, name)] or names
    if PREFERRED in candidates:
        return PREFERRED
    if len(candidates) > 1:
        raise UsageError(
            f"The run has several re-weightings: {examples(candidates)}.", "Name one: --name NAME"
        )
    return candidates[0]


def _is_oracle(run: Run, name: str) -> bool:
    """Whether a re-weighting was told the true labels, so that it is taken only where it is named."""
    result = run.stage(REWEIGHT.name(name=name)).require().details.get("result", {})
    return bool(result.get("oracle"))
