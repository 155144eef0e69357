"""Names of methods and models, as name -> "module:Class"; nothing here imports torch.

A new method is its file, one line here, one row of the README's table and one oracle test.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields
from importlib import import_module
from typing import Any

from metaselect.errors import UsageError

SELECTORS: dict[str, str] = {
    "rbc": "metaselect.selection.rbc:RBC",
    "rbc-k": "metaselect.selection.rbc:RBCK",
    "random": "metaselect.selection.uniform:Random",
    "certain": "metaselect.selection.uncertainty:Certain",
    "uncertain": "metaselect.selection.uncertainty:Uncertain",
}

REWEIGHTERS: dict[str, str] = {
    "direct": "metaselect.reweighting.direct:Direct",
    "l2rw": "metaselect.reweighting.l2rw:L2RW",
    "mw-net": "metaselect.reweighting.mw_net:MetaWeightNet",
    "uniform": "metaselect.reweighting.uniform:Uniform",
}

MODELS: dict[str, str] = {
    "mlp": "metaselect.models.mlp:MLP",
    "convnet": "metaselect.models.convnet:ConvNet",
    "lenet": "metaselect.models.lenet:LeNet",
    "resnet32": "metaselect.models.resnet:resnet32",
    "resnet34": "metaselect.models.resnet:resnet34",
    "wrn-28-10": "metaselect.models.wide_resnet:wrn_28_10",
}

ZOO_FAMILIES: tuple[str, ...] = (
    "resnet",
    "resnext",
    "wide_resnet",
    "vgg",
    "densenet",
    "mobilenet",
    "efficientnet",
    "convnext",
    "regnet",
    "shufflenet",
    "mnasnet",
)
"""Beginnings of the torchvision names that are known to work (``tests/test_models.py``)."""


def load(path: str) -> Any:
    """The object that "module:name" names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def configure(path: str, pairs: Sequence[str]) -> Any:
    """The method that ``path`` names, with fields set by "key=value" words.

    Raises:
        UsageError: not key=value, an unknown key (the valid ones are listed), or a value of another type.
    """
    method = load(path)
    defaults = {spec.name: spec.default for spec in fields(method)}
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in defaults:
            known = ", ".join(f"{key}={value}" for key, value in defaults.items()) or "none"
            raise UsageError(
                f"--option {pair} is not an option of {path.rpartition(':')[2]}.", f"Options: {known}"
            )
        try:
            values[name] = _parse(text, type(defaults[name]))
        except ValueError:
            kind = type(defaults[name]).__name__
            raise UsageError(
                f"--option {pair}: {text!r} is no {kind}.", f"Default: {defaults[name]}"
            ) from None
    return method(**values)


def settings(method: Any) -> dict[str, Any]:
    """Every field of a configured method, for ``stage.json``."""
    return asdict(method)


def _parse(text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return kind(text)
