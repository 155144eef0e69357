"""How raw samples became stored ones: ``preprocess.json``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metaselect.data.depth import PixelRange
from metaselect.records import Json
from metaselect.run.files import read_json, write_json
from metaselect.run.layout import IDS_ALONE, IMAGES
from metaselect.run.memo import FileMemo

INGEST_AGAIN = "Ingest the data again with --force."


@dataclass(frozen=True)
class Preprocess:
    """How raw samples became the stored arrays, and how they are normalised for a model.

    Attributes:
        task: "images", "features" or "external" (ids and labels alone). Of a pool that has both, "features", to which
            all but ``images`` belongs.
        size: (height, width) in pixels; empty for all but images.
        mode: "L" or "RGB"; empty for all but images.
        mean: per channel, of pixels scaled to [0, 1], or per feature; subtracted from a model's inputs. Empty for
            ids and labels alone.
        std: per channel or feature, in the same units; inputs are divided by it. Never 0.
        pixel_range: the values of images of more than 8 bits that became 0 and 255; None where there are none.
        fit: how images of other proportions were brought to the size: "crop", "pad" or "squash".
        images: the same of the images of a pool that has both; else None.
    """

    task: str
    size: tuple[int, ...]
    mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_range: PixelRange | None = None
    fit: str = "crop"
    images: "Preprocess | None" = None

    @property
    def kinds(self) -> dict[str, "Preprocess"]:
        """That of "images" and of "features", of those that the samples have."""
        if self.task == IDS_ALONE:
            return {}
        own = {self.task: replace(self, images=None)}
        return own if self.images is None else {IMAGES: self.images, **own}

    def write(self, path: Path) -> None:
        """Write ``preprocess.json``."""
        write_json(path, self.as_json())

    def as_json(self) -> dict[str, Json]:
        """The fields as JSON values."""
        return {
            "task": self.task,
            "size": list(self.size),
            "mode": self.mode,
            "mean": list(self.mean),
            "std": list(self.std),
            "pixel_range": None if self.pixel_range is None else list(self.pixel_range),
            "fit": self.fit,
            **({} if self.images is None else {"images": self.images.as_json()}),
        }

    @classmethod
    def read(cls, path: Path) -> "Preprocess":
        """What ``preprocess.json`` says."""
        return _read_preprocess(path)


def _parse_preprocess(path: Path) -> Preprocess:
    return _preprocess_of(read_json(path, INGEST_AGAIN))


def _preprocess_of(raw: Mapping[str, Any]) -> Preprocess:
    scale = raw.get("pixel_range")  # as fit, not in files from before it was recorded
    return Preprocess(
        raw["task"],
        tuple(raw["size"]),
        raw["mode"],
        tuple(raw["mean"]),
        tuple(raw["std"]),
        None if scale is None else PixelRange(*scale),
        raw.get("fit", "crop"),
        _preprocess_of(raw["images"]) if "images" in raw else None,
    )


_read_preprocess = FileMemo(_parse_preprocess)  # which files a stage reads depends on it
