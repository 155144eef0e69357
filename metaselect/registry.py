"""Names of methods and models, as name -> "module:Class"; nothing here imports torch.

A new method is its file, one line here, one row of the README's table and one oracle test.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any

from metaselect.errors import UsageError
from metaselect.options import ReweightOptions, SelectOptions, key_options
from metaselect.records import Json, Reporter

SELECTORS: dict[str, str] = {
    "rbc": "metaselect.selection.rbc:RBC",
    "rbc-k": "metaselect.selection.rbc:RBCK",
    "gbc": "metaselect.selection.gbc:GBC",
    "badge": "metaselect.selection.badge:Badge",
    "k-center": "metaselect.selection.k_center:KCenter",
    "typiclust": "metaselect.selection.typiclust:TypiClust",
    "random": "metaselect.selection.random:Random",
    "certain": "metaselect.selection.uncertainty:Certain",
    "uncertain": "metaselect.selection.uncertainty:Uncertain",
    "low-self-confidence": "metaselect.selection.uncertainty:LowSelfConfidence",
    "ta-vaal": "metaselect.selection.ta_vaal:TAVAAL",
    "craig": "metaselect.selection.craig:Craig",
}

REWEIGHTERS: dict[str, str] = {
    "direct": "metaselect.reweighting.direct:Direct",
    "l2rw": "metaselect.reweighting.l2rw:L2RW",
    "mw-net": "metaselect.reweighting.mw_net:MetaWeightNet",
    "fsr": "metaselect.reweighting.fsr.method:FSR",
    "gce": "metaselect.reweighting.gce:GeneralisedCrossEntropy",
    "elr": "metaselect.reweighting.elr:EarlyLearning",
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

TORCHVISION_FAMILIES: tuple[str, ...] = (
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


FLAG_FIELDS: tuple[str, ...] = ("gradient",)
"""Fields of methods that a flag of their own sets, and --option does not."""

ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)
TYPE_NAMES: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}

PROFILES: tuple[str, ...] = ("long-tail",)
"""Kinds of data that a method may have other values for: its ``profiles``, from a name to values of fields."""


def configure(path: str, pairs: Sequence[str], *, profile: str | None = None, **flags: str) -> Any:
    """The method that ``path`` names, with fields set by its profile, over that by flags and "key=value" words.

    Args:
        path: "module:Class".
        pairs: the words of --option.
        profile: one of ``PROFILES``; it changes nothing in a method that does not have it.
        flags: values of fields that have a flag of their own.

    Raises:
        UsageError: not key=value, an unknown key (the valid ones are listed), a value of another type, or a flag
            for a field that the method does not have; or no such profile.
    """
    method = load(path)
    known_fields = {spec.name: spec.default for spec in fields(method)}
    defaults = {name: value for name, value in known_fields.items() if name not in FLAG_FIELDS}
    own_name = method_name(path)
    for name in flags.keys() - known_fields.keys():
        raise UsageError(f"--{name} {flags[name]} means nothing to {own_name}.", f"Leave out --{name}.")
    values: dict[str, Any] = {**profile_values(path, profile), **flags}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if name in defaults and not equals:
            raise UsageError(
                f"--option {pair} has no value.", f"For example {name}={format_value(defaults[name])}"
            )
        if name not in defaults:
            known = ", ".join(f"{key}={format_value(value)}" for key, value in defaults.items()) or "none"
            more = " (--option help says what they mean)" if defaults else ""
            raise UsageError(f"--option {pair} is not an option of {own_name}.", f"Options: {known}{more}")
        try:
            values[name] = _parse(text, type(defaults[name]))
        except ValueError:
            kind = TYPE_NAMES[type(defaults[name])]
            raise UsageError(
                f"--option {pair}: {text!r} is not {kind}.", f"The default is {format_value(defaults[name])}."
            ) from None
    return method(**values)


def configured_method(
    methods: Mapping[str, str], options: SelectOptions | ReweightOptions, report: Reporter, **flags: str
) -> Any:
    """The method as its options say, with a note where a profile was given that it does not have.

    Args:
        methods: of the registry.
        options: method, option and profile.
        report: takes the note.
        flags: values of fields that have a flag of their own.
    """
    path = methods[options.method]
    method = configure(path, options.option, profile=options.profile, **flags)
    if options.profile is not None and not profile_values(path, options.profile):
        report.note(f"Profile {options.profile} changes nothing in {options.method}.")
    return method


def describe(path: str) -> list[tuple[str, str, str]]:
    """Name, default and meaning of every field that --option sets in the method that ``path`` names."""
    method = load(path)
    meanings: dict[str, str] = {}
    for kind in reversed(method.__mro__):
        _, _, attributes = (inspect.cleandoc(kind.__doc__ or "")).partition("Attributes:\n")
        meanings |= {name: " ".join(text.split()) for name, text in ATTRIBUTE.findall(attributes)}
    return [
        (spec.name, format_value(spec.default), meanings[spec.name])
        for spec in fields(method)
        if spec.name not in FLAG_FIELDS
    ]


def method_name(path: str) -> str:
    """What the command line calls the method that ``path`` names."""
    return next((name for name, known in {**SELECTORS, **REWEIGHTERS}.items() if known == path), path)


def format_value(value: object) -> str:
    """A value as --option takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def profile_values(path: str, profile: str | None) -> dict[str, Any]:
    """What a profile sets in the method that ``path`` names; nothing where the method does not have it.

    Raises:
        UsageError: not one of ``PROFILES``.
    """
    if profile not in (None, *PROFILES):
        raise UsageError(f"--profile {profile} is not known.", f"One of {', '.join(PROFILES)}.")
    return dict(getattr(load(path), "profiles", {}).get(profile, {}))


def settings(method: Any) -> dict[str, Json]:
    """Every field of a configured method that bears on the result, for ``stage.json``."""
    return key_options(method)


def _parse(text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return kind(text)
