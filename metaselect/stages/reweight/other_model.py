"""Starting from the model of another re-weighting of the run: ``--init NAME``."""

from metaselect.errors import ArtefactError, UsageError
from metaselect.options import ReweightOptions
from metaselect.run.artefacts import RECORD, REWEIGHT, ROBUST_MODEL, ROBUST_MODEL_INFO
from metaselect.run.files import read_json
from metaselect.run.inputs import inputs_of
from metaselect.run.layout import Run
from metaselect.text import examples

FROM_WARMUP, FROM_SCRATCH = "warmup", "scratch"
"""Values of --init that name no re-weighting."""


def model_files(name: str) -> tuple[str, str]:
    """Paths below the run of a re-weighting's parameters and of their description."""
    return ROBUST_MODEL.path(name=name), ROBUST_MODEL_INFO.path(name=name)


def other_reweighting(run: Run, options: ReweightOptions) -> str:
    """The name of the re-weighting that --init names; empty where it names none.

    Raises:
        ArtefactError: the run has no finished one of that name, or it is stale or damaged.
        UsageError: it would start from itself, or it started from what is trained now.
    """
    wanted, name = options.init, options.name or options.method
    if wanted in (FROM_WARMUP, FROM_SCRATCH):
        return ""
    found = [stage.partition("/")[2] for stage in run.stage_names(REWEIGHT.kind)]
    found = [each for each in found if run.path(f"{REWEIGHT.name(name=each)}/{RECORD}").is_file()]
    if wanted not in found:
        there = f"there are {examples(found)}" if found else "there is none"
        raise ArtefactError(
            f"--init {wanted} is no finished re-weighting of {run.root}: {there}.",
            f"Name one of the run, or {FROM_WARMUP} or {FROM_SCRATCH}.",
        )
    before: str = wanted
    while before in found:
        if before == name:
            raise UsageError(
                f"--init {wanted} cannot be what {REWEIGHT.name(name=name)} starts from: it is made from that.",
                "Give the new one another --name.",
            )
        before = str(run.stage(REWEIGHT.name(name=before)).require().key.options["init"])
    inputs_of(run, *model_files(wanted))  # before anything is computed
    return wanted


def other_architecture(run: Run, name: str) -> str:
    """The architecture of a re-weighting's model."""
    path = ROBUST_MODEL_INFO.path(name=name)
    hint = run.stage(REWEIGHT.name(name=name)).recompute_hint
    return str(read_json(run.path(path), hint)["architecture"])


def knows_truth(run: Run, name: str) -> bool:
    """Whether a re-weighting was told the true labels, or started from one that was."""
    result = run.stage(REWEIGHT.name(name=name)).require().details["result"]
    return bool(result.get("oracle"))
