"""The sample of the pool on which purchases are simulated, and the order in which a selector would buy its labels."""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.options import DEFAULT_BUDGETS, PlanOptions, SelectOptions
from metaselect.planning.purchases import Known
from metaselect.random import generator
from metaselect.records import Reporter
from metaselect.registry import SELECTORS, configured_method
from metaselect.reweighting.evidence import Evidence
from metaselect.run.artefacts import CHECKPOINT
from metaselect.run.layout import Run
from metaselect.selection.base import PoolFeatures, Selector
from metaselect.selection.clustering.euclidean import MAX_FULL_BATCH_PRODUCTS, kmeans_clusters
from metaselect.stages.reweight.evidence import label_evidence, pool_factors
from metaselect.stages.reweight.setup import ReweightSetup, trained_ids
from metaselect.stages.select.auto_method import with_resolved_method
from metaselect.training.saved_models import warmup_model

ROWS = 1500  # samples on which purchases are simulated
ROWS_PER_LABEL = 4  # more samples, where the largest budget is large
MOST_CLUSTERS_SHARE = 2  # samples for each cluster, at least
STARTS = 3  # of K-means


class Sample(NamedTuple):
    """A sample of the pool's labelled samples, with all bought ones.

    Attributes:
        evidence: of r samples.
        known: the bought labels among them, and the next ones.
        cluster: (r,) int64.
        method: name of the selector.
    """

    evidence: Evidence
    known: Known
    cluster: torch.Tensor
    method: str

    def without_label(self, count: int) -> tuple[int, float]:
        """Clusters without a label after ``count`` further ones, and the share of the samples in them."""
        sizes = torch.bincount(self.cluster)
        labelled = torch.zeros(len(sizes), dtype=torch.bool)
        labelled[self.cluster[torch.cat([self.known.bought, self.known.order[:count]])]] = True
        empty = ~labelled & (sizes > 0)
        return int(empty.sum()), float(sizes[empty].sum() / sizes.sum())


def possible_budgets(setup: ReweightSetup, options: PlanOptions) -> tuple[int, ...]:
    """The budgets in rising order, each at most half of what can be bought, so that the others can be judged.

    Raises:
        UsageError: one is larger, or the pool is too small for any.
    """
    free = len(trained_ids(setup.pool, setup.meta_set, setup.method)) - len(setup.meta_set.bought)
    most = free // 2
    wanted = options.budgets or tuple(budget for budget in DEFAULT_BUDGETS if budget <= most)
    if not wanted or max(wanted) > most:
        given = f"--budgets {max(wanted)}" if wanted else "A plan"
        raise UsageError(
            f"{given} is not possible: {free} samples have a given label and no bought one, and half of them are kept "
            "to judge by.",
            f"Give budgets up to {most}." if most else "Label them all.",
        )
    return tuple(sorted(set(wanted)))


def draw_sample(
    run: Run, setup: ReweightSetup, options: PlanOptions, budgets: tuple[int, ...], report: Reporter
) -> Sample:
    """A seeded sample.

    Args:
        run: with a warm-up.
        setup: of the run.
        options: of the command.
        budgets: in rising order.
        report: notes and progress.
    """
    bought = torch.from_numpy(setup.meta_set.bought)
    usable = trained_ids(setup.pool, setup.meta_set, setup.method)
    usable = usable[~torch.isin(usable, bought)]
    count = max(ROWS - len(bought), ROWS_PER_LABEL * budgets[-1])
    drawn = torch.randperm(len(usable), generator=generator(options.seed, "plan", "sample"))[:count]
    ids = torch.cat([usable[drawn], bought]).sort().values
    evidence = label_evidence(setup, report, ids)
    position = torch.searchsorted(ids, bought)
    answers = torch.from_numpy(setup.meta_set.labels)
    features = _features(run, setup, evidence, ids, answers, report)
    select = with_resolved_method(run, SelectOptions(), report, has_labels=len(bought) > 0)
    method: Selector = configured_method(SELECTORS, select, report)
    stream = generator(options.seed, "plan", "select")
    order = method.choose(features, budgets[-1], position, stream).ranked
    cluster = _clusters(features.hidden[-1].cpu(), len(bought) + budgets[-1], options.seed)
    return Sample(evidence, Known(position, answers, order), cluster, select.method)


def _features(
    run: Run,
    setup: ReweightSetup,
    evidence: Evidence,
    ids: torch.Tensor,
    answers: torch.Tensor,
    report: Reporter,
) -> PoolFeatures:
    """What selectors look at, of the warm-up's last checkpoint alone."""
    last = CHECKPOINT.path(epoch=warmup_model(run).checkpoints[-1])
    factors = pool_factors(setup, last, report, ids)
    return PoolFeatures((factors.probs,), (factors.hidden,), evidence.given, bought_labels=answers)


def _clusters(hidden: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """(r,) int64 clusters by K-means of rows of norm 1."""
    unit = F.normalize(hidden)
    count = min(count, len(unit) // MOST_CLUSTERS_SHARE)
    full_batch = unit.numel() * count <= MAX_FULL_BATCH_PRODUCTS
    return kmeans_clusters(unit, count, STARTS, generator(seed, "plan", "clusters"), full_batch=full_batch)
