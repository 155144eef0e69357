"""The model to take: by an evaluation, else by the comparisons that the re-weightings of a run end with. No torch."""

from collections.abc import Collection
from typing import Any, NamedTuple

from metaselect.registry import BASELINE, PREFERRED
from metaselect.run.artefacts import CHECKPOINT, EVALUATE, REWEIGHT, ROBUST_MODEL, WARMUP, WARMUP_MODEL
from metaselect.run.evaluation_artefacts import METRICS
from metaselect.run.files import read_json
from metaselect.run.layout import Run

ON_BOUGHT_LABELS = "bought.labels"
"""The name of the evaluation without a test set; those of test sets, which are made from file names, have no dot."""


class ModelChoice(NamedTuple):
    """A model of the run.

    Attributes:
        model: "warmup" or the name of a re-weighting.
        path: of its parameters, below the run.
        why: the reason, as a part of a sentence.
    """

    model: str
    path: str
    why: str

    def sentence(self, root: str) -> str:
        """The choice as a sentence, for the run in the folder ``root``."""
        return f"Model to take: {self.model} ({root}/{self.path}); {self.why}."


def chosen_on_test_set(run: Run, usable: Collection[str]) -> ModelChoice | None:
    """The choice of the evaluation with the most test samples.

    Args:
        run: the run.
        usable: as ``choose_by_comparisons``; an evaluation that chose another model is left out, and so is the one
            on bought labels, which goes by the comparisons.

    Returns:
        None without an evaluation.

    Raises:
        ArtefactError: metrics are damaged.
    """
    best, most = None, 0
    for stage in run.stage_names(EVALUATE.kind):
        if stage not in usable or stage == EVALUATE.name(test=ON_BOUGHT_LABELS):
            continue
        path = METRICS.path(test=stage.partition("/")[2])
        metrics = read_json(run.path(path), run.stage(stage).recompute_hint)
        take, count = metrics["take"], metrics["test_samples"]
        trained = WARMUP.name() if take["model"] == WARMUP.kind else REWEIGHT.name(name=take["model"])
        if count > most and trained in usable:
            why = f"by the {count:,} samples of {stage}: {take['why']}"
            best, most = ModelChoice(take["model"], take["path"], why), count
    return best


def choose_by_comparisons(run: Run, usable: Collection[str]) -> ModelChoice | None:
    """The baseline, or the warm-up where it was not run, unless a method is better by more than a standard error.

    Args:
        run: the run.
        usable: names of stages that are done, up to date and not dead; only these are taken.

    Returns:
        None without a warm-up and without a baseline.

    Raises:
        ArtefactError: a record is damaged.
    """
    methods: dict[str, str] = {}
    results: dict[str, Any] = {}
    for stage in run.stage_names(REWEIGHT.kind):
        if stage in usable:
            name, record = stage.partition("/")[2], run.stage(stage).require()
            methods[name], results[name] = str(record.key.options["method"]), record.details["result"]
    baselines = [name for name, method in methods.items() if method == BASELINE]
    if baselines:
        plain = BASELINE if BASELINE in baselines else baselines[0]
        key, path, other = "against_baseline", ROBUST_MODEL.path(name=plain), plain
    elif WARMUP.name() in usable:
        plain, key, other = WARMUP.kind, "against_warmup", "the warm-up"
        start = read_json(run.path(WARMUP_MODEL.path()), run.stage(WARMUP.name()).recompute_hint)
        path = CHECKPOINT.path(epoch=start["checkpoints"][-1])
    else:
        return None
    # By accuracy; of equal ones the preferred method, then the first name.
    compared = sorted(
        (
            -found["accuracy"]["difference"],
            methods[name] != PREFERRED,
            name,
            found["accuracy"]["standard_error"],
        )
        for name, found in ((name, _against(results[name], key)) for name in methods)
        if found is not None and methods[name] != BASELINE
    )
    for difference, _, name, error in compared:
        if -difference > error:
            points, one_error = f"{-100 * difference:+.1f} points", f"{100 * error:.1f}"
            why = f"{points} to {other} on bought labels that it did not see, where a standard error is {one_error}"
            return ModelChoice(name, ROBUST_MODEL.path(name=name), why)
    if compared:
        why = f"no method is better than {other} by more than a standard error"
    elif {stage for stage in run.stage_names(REWEIGHT.kind) if stage not in usable}:
        why = "no other training is up to date and of use"
    else:
        why = "no method was compared with it"
    return ModelChoice(plain, path, why)


def _against(result: Any, key: str) -> Any:
    """A re-weighting's comparison with another model; None where there is none."""
    comparison = result.get("comparison")
    return comparison and comparison[key]
