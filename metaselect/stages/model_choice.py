"""The model to take, by the comparisons that the re-weightings of a run end with. No torch."""

from collections.abc import Collection
from typing import Any, NamedTuple

from metaselect.registry import BASELINE, PREFERRED
from metaselect.run.artefacts import CHECKPOINT, REWEIGHT, ROBUST_MODEL, WARMUP, WARMUP_MODEL
from metaselect.run.files import read_json
from metaselect.run.layout import Run


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
            why = results[name]["comparison"]["sentence"].rstrip(".")
            return ModelChoice(name, ROBUST_MODEL.path(name=name), why)
    better = f"no method is better than {other} by more than a standard error"
    why = better if compared else "no method was compared with it"
    return ModelChoice(plain, path, why)


def _against(result: Any, key: str) -> Any:
    """A re-weighting's comparison with another model; None where there is none."""
    comparison = result.get("comparison")
    return comparison and comparison[key]
