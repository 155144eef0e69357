"""How long a warm-up will take, and what would be quicker."""

import torch

from metaselect import ranks
from metaselect.reweighting.uniform import UniformRun
from metaselect.run.layout import IMAGES, Run
from metaselect.stages.warmup.descent import batches_for
from metaselect.stages.warmup.plan import WarmupPlan
from metaselect.training import duration
from metaselect.training.duration import LARGE_SIDE, duration_note, has_large_images, measured_pace


def may_be_long(plan: WarmupPlan) -> bool:
    """Whether the training is worth a probe."""
    if plan.descent is None:
        return False
    visits = len(plan.train_ids) * plan.descent.config.epochs * (1 + plan.folds)
    return duration.may_be_long(plan.pool.inputs.shape[1:], visits, plan.device)


def estimated_seconds(plan: WarmupPlan) -> float | None:
    """The seconds that training and predictions will take; None for ``linear``, which is solved within seconds."""
    if plan.descent is None:
        return None
    config, samples = plan.descent.config, len(plan.train_ids)
    pace = measured_pace(
        plan.initial_model(seed=0).to(plan.device),
        batches_for(plan, plan.descent.model),
        config,
        UniformRun,
        ids=plan.train_ids,
        bought=torch.empty(0, dtype=torch.int64),
        meta_batch_size=0,
    )
    predicted = len(plan.pool) + config.epochs * len(plan.held_out)
    seconds = (1 + plan.folds) * (config.epochs * samples * pace.training + predicted * pace.prediction)
    return seconds / ranks.size()


def advice(plan: WarmupPlan, seconds: float, run: Run) -> str:
    """What to say before it starts: how long it takes, and where that is long, what would be quicker."""
    assert plan.descent is not None
    shape = plan.pool.inputs.shape[1:]
    ways = []
    if has_large_images(shape):
        # Where the samples have features too, the plan says which of both it takes.
        if plan.options.on == IMAGES:
            ways.append("the features that the run has (--on features)")
        else:
            ways.append(f"features of a frozen encoder (metaselect embed {run.flag})")
        if _pretrained_is_quicker(plan):
            ways.append("--pretrained")
        ways.append(f"--image-size {LARGE_SIDE}")
    if plan.folds:
        ways.append("--folds 0")
    if plan.device.type == "cpu":
        ways.append("a GPU")
    what = f"The training of {plan.descent.model} on {len(plan.train_ids):,}"
    return duration_note(what, shape, seconds, ways)


def _pretrained_is_quicker(plan: WarmupPlan) -> bool:
    """Whether fine-tuning at its defaults takes less time: half the epochs of resnet18, each no longer on a CPU."""
    from metaselect.encoders.efficientnet_lite import is_installed  # it imports torchvision

    assert plan.descent is not None
    at_default = plan.options.model is None and plan.options.epochs is None
    return at_default and plan.descent.model == "resnet18" and plan.device.type == "cpu" and is_installed()
