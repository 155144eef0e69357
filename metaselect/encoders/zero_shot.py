"""Class probabilities without any training: by an encoder of images and texts, from the names of the classes.

Source: CLIP (Radford et al. 2021, arXiv:2103.00020, section 3.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metaselect.encoders.base import Encoder
from metaselect.errors import UsageError

PLACE = "{}"
"""Of the class's name in a prompt."""


@dataclass(frozen=True)
class ZeroShot:
    """A linear classifier whose weights are embeddings of texts.

    Attributes:
        texts: (K, d) float32, of length 1 each.
        scale: by which cosines are multiplied, the inverse of the softmax's temperature.
    """

    texts: np.ndarray
    scale: float

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(B, K) float32, rows sum to 1, of the embeddings of images, (B, d) float32."""
        lengths = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        logits = self.scale * (features / lengths) @ self.texts.T
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probs: np.ndarray = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
        return probs


def zero_shot(encoder: Encoder, prompt: str, classes: Sequence[str]) -> ZeroShot:
    """The classifier of K classes.

    Args:
        encoder: of images and texts.
        prompt: a sentence with ``PLACE`` for the class's name: "a photo of a {}."
        classes: K names.

    Raises:
        UsageError: the encoder has no texts, or the prompt no place for a name.
        DataError: what turns a text into numbers cannot be had.
    """
    if encoder.embed_texts is None:
        raise UsageError(
            f"--zero-shot needs an encoder of images and texts, and {encoder.name} is of images alone.",
            "Name a model of OpenCLIP: --encoder open_clip:MODEL/WEIGHTS",
        )
    if PLACE not in prompt:
        raise UsageError(
            f"--zero-shot {prompt} has no {PLACE} where the class's name goes.",
            'Such as --zero-shot "a photo of a {}."',
        )
    return ZeroShot(*encoder.embed_texts([prompt.replace(PLACE, name) for name in classes]))
