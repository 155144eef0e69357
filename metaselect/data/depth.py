"""Pixels of more than 8 bits: the range of their values in a pool, and its linear scaling to 0..255."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVELS = 256
FEW_LEVELS = 16  # as many as 4 bits have, which scanners and masks write in files of 16
BRIGHTER = 4  # times, between two sets of images of one kind
TAIL = 0.005  # of the pixels of an image, and of the images of a pool, at either end


class PixelRange(NamedTuple):
    """The values that become 0 and 255; values outside become the nearer of both."""

    low: float
    high: float

    def levels(self, values: np.ndarray) -> np.ndarray:
        """The values, of any shape, as uint8 levels, scaled linearly and rounded."""
        scaled = values.astype(np.float64)
        scaled -= self.low
        scaled *= (LEVELS - 1) / (self.high - self.low)
        np.rint(scaled, out=scaled)
        np.clip(scaled, 0, LEVELS - 1, out=scaled)
        return scaled.astype(np.uint8)

    def __str__(self) -> str:
        return f"{self.low:.10g} to {self.high:.10g}"


class PixelValues:
    """The values of a pool's deep images, as far as a range depends on them; the order of images makes no difference.

    Attributes:
        whole: images of whole numbers.
        fractional: images of floating-point numbers.
    """

    def __init__(self) -> None:
        self.whole = self.fractional = 0
        self._low, self._high = np.inf, -np.inf
        self._most: list[Sequence[float]] = []  # (low, high) of each image but for its tails

    def add(self, values: np.ndarray) -> None:
        """Add an image: finite values of any shape, whole numbers or floats."""
        self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))
        self._most.append(np.quantile(values, (TAIL, 1 - TAIL), method="nearest").tolist())
        if np.issubdtype(values.dtype, np.floating):
            self.fractional += 1
        else:
            self.whole += 1

    @property
    def count(self) -> int:
        """How many images were added."""
        return len(self._most)

    def range(self) -> PixelRange | None:
        """The range of the values; None if there is no image.

        Whole numbers: from 0 to the largest of the least number of bits (8, 10, 12, ...) that holds all. Floats: 0 to 1
        or 0 to 255 if it holds all. Else from the smallest value to the largest.
        """
        if not self._most:
            return None
        if self._low >= 0 and self.fractional:
            for high in (1.0, 255.0):
                if self._high <= high:
                    return PixelRange(0.0, high)
        elif self._low >= 0:
            bits = max(8, int(self._high).bit_length())
            return PixelRange(0.0, float(2 ** (bits + bits % 2) - 1))
        return PixelRange(self._low, self._high if self._high > self._low else self._low + 1)

    def remarks(self, scale: PixelRange) -> list[str]:
        """Warnings about what is lost when the values are scaled from this range; each says the remedy."""
        if not self._most:
            return []
        lows, highs = np.array(self._most).T
        most = PixelRange(
            float(np.quantile(lows, TAIL, method="nearest")),
            float(np.quantile(highs, 1 - TAIL, method="nearest")),
        )
        remedy = "Another range: metaselect ingest --pixel-range LOW,HIGH"
        remarks = []
        if self.whole and self.fractional:
            remarks.append(
                f"{self.whole} images have whole numbers as pixels and {self.fractional} have fractions, and one range "
                f"is used for both: {scale}. Convert them to one kind if they are on different scales."
            )
        if most.low < scale.low or most.high > scale.high:
            remarks.append(
                f"The pixels of images with more than 8 bits have values from {most}; what lies outside the range "
                f"{scale} becomes black or white. {remedy}"
            )
        first, last = scale.levels(np.array(most)).astype(int).tolist()
        if last - first + 1 <= FEW_LEVELS:
            remarks.append(
                f"Nearly all pixels of images with more than 8 bits have values from {most}; scaled from the range "
                f"{scale} they take only {last - first + 1} of {LEVELS} grey levels. {remedy}"
            )
        return remarks


def brightness_remark(pool: float, test: float, scale: PixelRange) -> str | None:
    """The warning where images of 8 bits, which are stored as they are, do not go with deep ones that were scaled.

    Args:
        pool: mean of the stored pixels, in [0, 1].
        test: the same of a test set with images of 8 bits.
        scale: of the pool's deep images.
    """
    least = 0.5 / LEVELS  # so that black images have a ratio too
    ratio = max(test, least) / max(pool, least)
    if 1 / BRIGHTER < ratio < BRIGHTER:
        return None
    words = f"{ratio:.3g} times as bright" if ratio > 1 else f"{1 / ratio:.3g} times as dark"
    return (
        f"it has images of 8 bits, which stay as they are, and is on average {words} as the pool, whose images of more "
        f"bits were scaled from the range {scale}. Another range: metaselect ingest --pixel-range LOW,HIGH --force"
    )
