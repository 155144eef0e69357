"""An encoder that is trained: with a new linear head, on images of a pool's own size and normalisation.

``encoders.base`` imports torchvision, which takes a second, so only building an encoder does.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from metaselect.errors import DataError, MetaSelectError, UsageError
from metaselect.factories import described
from metaselect.registry import ENCODERS, load

if TYPE_CHECKING:
    from metaselect.encoders.base import Encoder

HEAD = "head"


class Classifier(nn.Module):
    """An encoder and a linear head.

    Its inputs, (B, 3, H, W), are normalised by the statistics of a pool. What the encoder was trained with differs from
    them by ``scale`` and ``shift``, (3, 1, 1); of an encoder with random parameters, they are 1 and 0.

    Args:
        encoder: (B, 3, H, W) -> (B, d).
        width: d.
        classes: K.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(3, 1, 1))
        self.register_buffer("shift", torch.zeros(3, 1, 1))
        self.encoder = encoder
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        logits: torch.Tensor = self.head(self.encoder(x * self.scale + self.shift))
        return logits


def new_classifier(name: str, size: tuple[int, int], classes: int) -> Classifier:
    """A classifier with random parameters, from torch's global generators; it takes neither a file nor a network.

    Args:
        name: of one of ``registry.TRAINABLE_ENCODERS``, as ``registry.is_encoder`` says.
        size: (H, W) of the images.
        classes: K.

    Raises:
        UsageError: no such encoder, its package is not installed, or it cannot take images of this size.
    """
    source, _, rest = name.partition(":")
    with flags_of_models():
        encoder: Encoder = load(ENCODERS[source])(rest, None, pretrained=False)
    return Classifier(encoder.module, _fit_size(encoder, size), classes)


def pretrained_body(
    encoder: "Encoder", size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> dict[str, torch.Tensor]:
    """The tensors of a ``Classifier`` with the parameters of an encoder, all but those of its head.

    Args:
        encoder: which is changed, where its positions are of another size.
        size: (H, W) of the images.
        mean: of the pool, one or three numbers, as its inputs are normalised.
        std: of the pool.

    Raises:
        UsageError: the encoder cannot take images of this size.
    """
    _fit_size(encoder, size)
    body = {f"encoder.{name}": value for name, value in encoder.module.state_dict().items()}
    of_pool = [torch.tensor(each, dtype=torch.float64).expand(3) for each in (mean, std)]
    trained = [
        torch.tensor(each, dtype=torch.float64)
        for each in (encoder.preprocessing.mean, encoder.preprocessing.std)
    ]
    # An input x is (pixel - mean) / std of the pool.
    body["scale"] = (of_pool[1] / trained[1]).float().view(3, 1, 1)
    body["shift"] = ((of_pool[0] - trained[0]) / trained[1]).float().view(3, 1, 1)
    return body


def load_body(model: nn.Module, body: Mapping[str, torch.Tensor]) -> None:
    """Put the tensors of ``pretrained_body`` into a model of the same encoder; its head stays as it is.

    Raises:
        DataError: they are those of another model.
    """
    own = {name: value for name, value in model.state_dict().items() if not name.startswith(f"{HEAD}.")}
    if {name: value.shape for name, value in own.items()} != {
        name: value.shape for name, value in body.items()
    }:
        raise DataError("The pre-trained weights are not those of the model.", "Name the model they are of.")
    model.load_state_dict(dict(body), strict=False)


def _fit_size(encoder: "Encoder", size: tuple[int, int]) -> int:
    """Let the encoder take images of (H, W), interpolating positions of another size; returns its width d."""
    module: Any = encoder.module
    own = encoder.preprocessing.size
    try:
        if size != own and hasattr(module, "set_input_size"):  # of timm's transformers
            module.set_input_size(img_size=size)
        with torch.no_grad():
            features = module.eval()(torch.zeros(2, 3, *size))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise UsageError(
            f"--model {encoder.name} cannot take images of {size[0]} x {size[1]} pixels: {described(error)}.",
            f"It was made for {own[0]} x {own[1]}: ingest with --image-size {own[0]}, or choose another model.",
        ) from None
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        raise UsageError(
            f"--model {encoder.name} gives no vector of features for an image.", "Choose another model."
        )
    return int(features.shape[1])


@contextmanager
def flags_of_models() -> Iterator[None]:
    """A context in which errors about an encoder name the flags of `warmup`, not those of `embed`."""
    try:
        yield
    except MetaSelectError as error:
        sentence, hint = (
            text.replace("--encoder-weights", "--weights").replace("--encoder", "--model")
            for text in (str(error), error.hint)
        )
        raise type(error)(sentence, hint) from error
