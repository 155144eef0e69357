"""Normalisation by the statistics of a whole batch, and dropout of it, where each rank passes a part through the model.

``of_whole_batch`` is a context for the passes over such a part: in it, every BatchNorm layer in train mode, whichever
class it is, normalises by mean and variance of all parts, and dropout draws the masks of one process. So a step of N
ranks is that of one, up to rounding. torch.nn.SyncBatchNorm would do for BatchNorm, but takes GPUs alone, needs the
model's layers replaced, and has no forward-mode derivative, which a meta gradient is (``metagrad.jvp``).

Source: Ioffe, Szegedy 2015 (arXiv:1502.03167), Algorithm 1, with sums over all ranks; its derivatives.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from metaselect import ranks
from metaselect.models.batch import widest_float
from metaselect.ranks import Division


@contextmanager
def of_whole_batch(*parts: Division) -> Iterator[None]:
    """A context for passes over this rank's rows of a batch, or of several below each other, divided as ``parts``.

    Nothing changes where every rank has all rows of the first one.
    """
    if not parts[0].is_split:
        yield
        return
    with _WholeBatch(parts):
        yield


class Moments(NamedTuple):
    """Mean and variance (C,) of each channel over the whole batch, and the number of values a channel."""

    mean: torch.Tensor
    var: torch.Tensor
    values: float


def moments(values: torch.Tensor) -> Moments:
    """Of (b, C, ...) in each rank, over all ranks; the variance is that of the values, not an estimate (over N)."""
    full = values.float() if values.dtype.itemsize < 4 else values
    if values.device.type == "cpu":  # what BatchNorm itself calls there: a tenth of the time of var_mean
        mean, var = torch.batch_norm_update_stats(full, None, None, 0.0)
    else:
        var, mean = torch.var_mean(full, [axis for axis in range(values.dim()) if axis != 1], correction=0)
    count = values.numel() // values.shape[1]
    wide = widest_float(values.device)
    own = torch.cat([torch.full((1,), count, dtype=wide, device=values.device), mean.to(wide), var.to(wide)])
    found = Division((1,) * ranks.size()).joined(own[None])  # (ranks, 1 + 2 C)
    counts, means, variances = found.tensor_split((1, 1 + len(mean)), 1)
    total = float(counts.sum())
    whole = (counts * means).sum(0) / total
    spread = (counts * (variances + (means - whole) ** 2)).sum(0) / total
    return Moments(whole.to(mean.dtype), spread.to(var.dtype), total)


class WholeBatchNorm(torch.autograd.Function):
    """BatchNorm in train mode, of (b, C, ...) in each rank, by the moments of all."""

    @staticmethod
    def forward(
        inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, found: Moments, eps: float
    ) -> torch.Tensor:
        """The normalised values, times ``weight`` (C,), plus ``bias`` (C,)."""
        return F.batch_norm(inputs, found.mean, found.var, weight, bias, False, 0.0, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """Keep what the derivatives need."""
        values, weight, _, found, eps = inputs
        ctx.save_for_backward(values, weight, found.mean, found.var)
        ctx.save_for_forward(values, weight, found.mean, found.var)
        ctx.count, ctx.eps = found.values, eps

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient by the inputs, through the moments too; and this rank's part of those by weight and bias."""
        saved = ctx.saved_tensors
        # The sums over the batch are what the moments' own gradients take.
        by_inputs, by_weight, by_bias = _at_constant_moments(gradient, saved, ctx.eps)
        sums = ranks.all_sum(torch.cat([by_weight, by_bias]))
        return _less_means(by_inputs, ctx, saved, sums), by_weight, by_bias, None, None

    @staticmethod
    def jvp(ctx: Any, of_inputs: Any, of_weight: Any, of_bias: Any, *constants: Any) -> torch.Tensor:
        """The change of the output with those of the inputs."""
        return _tangent(ctx, ctx.saved_tensors, of_inputs, of_weight, of_bias)


def whole_batch_norm_tangent(node: Any, *tangents: torch.Tensor | None) -> torch.Tensor:
    """The change of the output of ``WholeBatchNorm``, a rule of ``metagrad.jvp_rules``."""
    return _tangent(node, node.saved_tensors, *tangents[:3])


def _tangent(
    kept: Any,
    saved: tuple[torch.Tensor, ...],
    of_inputs: torch.Tensor | None,
    of_weight: torch.Tensor | None,
    of_bias: torch.Tensor | None,
) -> torch.Tensor:
    values, _, mean, var = saved
    # weight (x - mean) s + bias = x factor + shift, whose tangents by weight and bias these are
    factor = (var + kept.eps).rsqrt() * (0 if of_weight is None else of_weight)
    shift = (0 if of_bias is None else of_bias) - mean * factor
    if of_inputs is None:
        shape = _of_channels(values)
        return torch.addcmul(shift.to(values.dtype).view(shape), values, factor.to(values.dtype).view(shape))
    # Without the weight the Jacobian is symmetric over the whole batch: the product is that of ``backward``.
    scaled, along, plain = _at_constant_moments(of_inputs, saved, kept.eps)
    return _less_means(scaled, kept, saved, ranks.all_sum(torch.cat([along, plain])), factor, shift)


def _at_constant_moments(
    gradient: torch.Tensor, saved: tuple[torch.Tensor, ...], eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The product w s g (b, C, ...), and the sums (C,) over this rank's rows of g u and of g."""
    values, weight, mean, var = saved
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.aten.native_batch_norm_backward(
        gradient, values, weight, mean, var, None, None, False, eps, [True, True, True]
    )
    return found


def _less_means(
    scaled: torch.Tensor,
    kept: Any,
    saved: tuple[torch.Tensor, ...],
    sums: torch.Tensor,
    factor: torch.Tensor | float = 0.0,
    shift: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """``scaled`` (b, C, ...), which changes, less w s (sum_i g_i + u sum_i g_i u_i) / N, plus x ``factor`` + ``shift``.

    Here u are the unscaled outputs, s = 1 / sqrt(var + eps), and ``sums`` (2 C,) the sums of g u and of g.
    """
    values, weight, mean, var = saved
    along, plain = sums.to(mean.dtype).chunk(2)
    inverse = (var + kept.eps).rsqrt()
    share = weight.to(mean.dtype) * inverse / kept.count
    slope = (factor - share * inverse * along).to(scaled.dtype)
    level = (shift - share * (plain - mean * inverse * along)).to(scaled.dtype)
    shape = _of_channels(values)
    return scaled.add_(level.view(shape)).addcmul_(values.to(scaled.dtype), slope.view(shape))


def _of_channels(values: torch.Tensor) -> tuple[int, ...]:
    """The shape in which (C,) numbers stand beside (b, C, ...) ones."""
    return (1, -1, *[1] * (values.dim() - 2))


class _WholeBatch(TorchFunctionMode):
    """Replaces the calls of batch_norm and dropout within a pass over some rows of a batch."""

    def __init__(self, parts: Sequence[Division]) -> None:
        super().__init__()
        every = torch.arange(sum(part.total for part in parts)).split([part.total for part in parts])
        self.count = sum(map(len, every))
        self.places = torch.cat([places[part.own] for places, part in zip(every, parts, strict=True)])

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The result of ``func``, or of what stands for it."""
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        if func is F.dropout:
            return _dropout(self.count, self.places, *args, **kwargs)
        return func(*args, **kwargs)


def _batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """As torch's, of the whole batch in train mode."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    with torch.no_grad():
        found = moments(torch.autograd.forward_ad.unpack_dual(input).primal.detach())
        for running, value in (
            (running_mean, found.mean),
            (running_var, found.var * _unbiased(found.values)),
        ):
            if running is not None:
                running.lerp_(value.to(running.dtype), momentum)
    channels, kind = input.shape[1], found.mean.dtype
    weight = torch.ones(channels, dtype=kind, device=input.device) if weight is None else weight
    bias = torch.zeros(channels, dtype=kind, device=input.device) if bias is None else bias
    result: torch.Tensor = WholeBatchNorm.apply(input, weight, bias, found, eps)
    return result


def _unbiased(count: float) -> float:
    return count / max(count - 1, 1)


def _dropout(
    count: int,
    places: torch.Tensor,
    input: torch.Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> torch.Tensor:
    """As torch's, with the rows of the mask that one process draws for the whole batch."""
    del inplace
    if not training or p == 0:
        return input
    whole = input.new_empty(count, *input.shape[1:])
    if input.is_contiguous(memory_format=torch.channels_last) and input.dim() == 4:
        whole = whole.to(memory_format=torch.channels_last)
    return input * whole.bernoulli_(1 - p).div_(1 - p)[places.to(input.device)]
