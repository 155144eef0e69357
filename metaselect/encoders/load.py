"""An encoder by its name: from one of the sources, or from a user's factory."""

from importlib.metadata import packages_distributions
from pathlib import Path

from torch import nn

from metaselect.data_options import DEFAULT_ENCODER
from metaselect.encoders.base import Encoder, Preprocessing, fill, package_version
from metaselect.errors import UsageError
from metaselect.factories import call_factory
from metaselect.random import derive_seed, seeded_globals
from metaselect.registry import ENCODERS, load

KNOWN = f"Encoders: {DEFAULT_ENCODER}, timm:NAME, open_clip:MODEL/WEIGHTS, torchvision:NAME, or package.module:factory."


def load_encoder(name: str, weights: Path | None = None) -> Encoder:
    """The encoder, frozen and in evaluation mode, on the CPU.

    Args:
        name: a key of ``ENCODERS``, with what its source calls it after a colon, or ``package.module:factory``.
        weights: a file in place of the source's own.

    Raises:
        UsageError: no such encoder, or its package is not installed.
        DataError: its weights cannot be had or do not fit.
    """
    source, colon, rest = name.partition(":")
    with seeded_globals(derive_seed(0, "encoder", name)):  # initial values, all of which weights replace
        if source in ENCODERS and bool(rest) == (source != DEFAULT_ENCODER):
            encoder: Encoder = load(ENCODERS[source])(rest, weights)
        elif source not in ENCODERS and colon:
            encoder = _from_factory(name, weights)
        else:
            raise UsageError(f"--encoder {name} is not known.", KNOWN)
    encoder.module.eval().requires_grad_(False)
    return encoder


def _from_factory(name: str, weights: Path | None) -> Encoder:
    made = call_factory("--encoder", name)
    right = isinstance(made, tuple) and len(made) == 2
    if not right or not isinstance(made[0], nn.Module) or not isinstance(made[1], Preprocessing):
        raise UsageError(
            f"--encoder {name} returned a {type(made).__name__}.",
            "factory() must return (an nn.Module, a metaselect.encoders.base.Preprocessing).",
        )
    module, preprocessing = made
    if weights is not None:
        fill(module, weights, name)
    return Encoder(name, module, preprocessing, _package_of(name.partition(".")[0].partition(":")[0]))


def _package_of(module: str) -> str:
    """The installed package of a module with its version, or the module's name where it is in none."""
    providers = packages_distributions().get(module, [])
    return package_version(providers[0]) if providers else module
