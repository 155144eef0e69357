"""The choice of a round: the method's features, its choice without the control samples, and these."""

import torch

from metaselect.data.store import Dataset
from metaselect.errors import UsageError
from metaselect.features.external_features import load_external_features
from metaselect.features.near_duplicates import SimilarSamples
from metaselect.features.warmup_features import WarmupFeatures
from metaselect.options import SelectOptions
from metaselect.random import generator
from metaselect.records import Reporter
from metaselect.run.layout import Run
from metaselect.run.stage import Work
from metaselect.selection.base import Choice, PoolFeatures, ProgressCallback, Selector
from metaselect.selection.min_per_class import with_min_per_class
from metaselect.stages.select.round_plan import RoundPlan
from metaselect.stages.select.similar import hidden_samples


def pool_features(
    run: Run,
    pool: Dataset,
    method: Selector,
    options: SelectOptions,
    epochs: tuple[int, ...],
    *,
    device: torch.device,
    work: Work,
    report: Reporter,
    reuse: bool = True,
) -> PoolFeatures:
    """The features that the method requires: from a file, from the warm-up, or labels alone.

    Args:
        run: the run.
        pool: its samples, or some of them.
        method: the selector.
        options: of the command.
        epochs: the checkpoints.
        device: where the model runs.
        work: where new files go.
        report: notes and progress.
        reuse: take files of other rounds, which hold the whole pool.
    """
    if options.features is not None:
        return load_external_features(
            options.features, pool, method, options.method, device=device, report=report
        )
    if not epochs:
        return PoolFeatures((), (), torch.from_numpy(pool.labels))
    warmup_features = WarmupFeatures(
        run, pool, method, seed=options.seed, device=device, work=work, report=report, reuse=reuse
    )
    return warmup_features.features(epochs)


def choose(
    method: Selector,
    features: PoolFeatures,
    plan: RoundPlan,
    options: SelectOptions,
    progress: ProgressCallback,
    similar: SimilarSamples | None = None,
) -> tuple[Choice, set[int]]:
    """The method's choice, with --min-per-class, and the control samples ranked last; and the indices of these.

    The control is drawn uniformly from all samples that may be chosen, before the method runs and without them in the
    method's input. So its share of wrong labels estimates that of the pool, whatever the method prefers. Nor does the
    method see outliers and near duplicates of what is chosen or could be; their ``similarity`` is NaN.

    Raises:
        UsageError: without these, fewer samples are left than the budget.
    """
    n = len(features.labels)
    free = torch.ones(n, dtype=torch.bool)
    free[plan.excluded] = False
    random_stream = generator(options.seed, "control", plan.number)
    shuffled = free.nonzero()[:, 0][torch.randperm(int(free.sum()), generator=random_stream)]
    control = shuffled[: plan.control].sort().values
    random_stream = generator(options.seed, "select", options.method, plan.number)
    if plan.control == plan.budget:
        drawn = Choice(control, torch.full((n,), -1), torch.zeros(n), torch.empty(0), {})
        return drawn, set(control.tolist())
    taken = ~free
    taken[control] = True
    hidden = torch.zeros(n, dtype=torch.bool)
    if similar is not None:
        hidden = hidden_samples(similar, taken, options.max_outlier)
        _require_enough(plan, int((~taken & ~hidden).sum()), int(hidden.sum()))
    rest = ~hidden
    rest[control] = False
    visible_ids = rest.nonzero()[:, 0]
    visible_position = rest.cumsum(0) - 1  # (n,) row of a sample in the method's input
    visible_features = features if bool(rest.all()) else features.subset(visible_ids)
    bought = visible_position[plan.excluded]
    if "bought_labels" in method.required_features:
        visible_features = visible_features._replace(bought_labels=plan.labels)
    choice = method.choose(visible_features, plan.budget - plan.control, bought, random_stream, progress)
    if options.min_per_class:
        picks = with_min_per_class(choice, visible_features.labels.cpu(), options.min_per_class, bought)
        choice = choice._replace(ranked=picks)
    cluster = torch.full((n,), -1, dtype=torch.int64)
    similarity = torch.zeros(n)
    similarity[hidden] = torch.nan
    cluster[visible_ids], similarity[visible_ids] = choice.cluster, choice.similarity
    ranked = torch.cat([visible_ids[choice.ranked], control])
    return Choice(ranked, cluster, similarity, choice.mass, choice.details), set(control.tolist())


def _require_enough(plan: RoundPlan, left: int, hidden: int) -> None:
    """Check that the method can choose its part of the budget.

    Raises:
        UsageError: it cannot; the hint names a budget that it could.
    """
    if plan.budget - plan.control > left:
        raise UsageError(
            f"A budget of {plan.budget} is not possible: {hidden} samples are near duplicates of others, or outliers.",
            f"Choose a budget up to {left + plan.control - plan.replaces}."
            if left + plan.control > plan.replaces
            else "Nothing is left to buy.",
        )
