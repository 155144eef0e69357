"""Registry of selectors, re-weighters, exchange formats and models, from a name to "module:Class"; it imports no torch.

A new method is a file of its own, one line here, one row in the documentation's table and one oracle test;
``selection.base``, ``reweighting.base`` and ``annotation.formats.base`` have the protocols.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from itertools import chain
from typing import Any

from metaselect.data_options import DEFAULT_ENCODER
from metaselect.errors import UsageError
from metaselect.options import ReweightOptions, SelectOptions, key_options
from metaselect.records import Json, Reporter

SELECTORS: dict[str, str] = {
    "rbc": "metaselect.selection.rbc:RBC",
    "rbc-k": "metaselect.selection.rbc:RBCK",
    "gbc": "metaselect.selection.gbc:GBC",
    "badge": "metaselect.selection.badge:Badge",
    "k-center": "metaselect.selection.k_center:KCenter",
    "k-means": "metaselect.selection.k_means:KMeansCentres",
    "typiclust": "metaselect.selection.typiclust:TypiClust",
    "disagreement": "metaselect.selection.disagreement:Disagreement",
    "random": "metaselect.selection.random:Random",
    "certain": "metaselect.selection.uncertainty:Certain",
    "uncertain": "metaselect.selection.uncertainty:Uncertain",
    "low-self-confidence": "metaselect.selection.uncertainty:LowSelfConfidence",
    "ta-vaal": "metaselect.selection.ta_vaal:TAVAAL",
    "craig": "metaselect.selection.craig:Craig",
}

AUTO_SELECTOR = "auto"
"""The value of `select --method` that stands for a selector by a rule; see ``stages.select.auto_method``."""

REWEIGHTERS: dict[str, str] = {
    "auto": "metaselect.reweighting.auto.method:Auto",
    "direct": "metaselect.reweighting.direct:Direct",
    "l2rw": "metaselect.reweighting.l2rw:L2RW",
    "mw-net": "metaselect.reweighting.mw_net:MetaWeightNet",
    "fsr": "metaselect.reweighting.fsr.method:FSR",
    "gce": "metaselect.reweighting.losses.gce:GeneralisedCrossEntropy",
    "elr": "metaselect.reweighting.losses.elr:EarlyLearning",
    "reed-soft": "metaselect.reweighting.losses.reed:ReedSoft",
    "reed-hard": "metaselect.reweighting.losses.reed:ReedHard",
    "s-model": "metaselect.reweighting.losses.s_model:SModel",
    "forward": "metaselect.reweighting.losses.forward_correction:ForwardCorrection",
    "glc": "metaselect.reweighting.losses.glc:GoldLossCorrection",
    "d2l": "metaselect.reweighting.losses.d2l:DimensionalityDriven",
    "mixup": "metaselect.reweighting.losses.mixup:MixUp",
    "focal": "metaselect.reweighting.losses.focal:Focal",
    "balanced-softmax": "metaselect.reweighting.losses.balanced_softmax:BalancedSoftmax",
    "class-balanced": "metaselect.reweighting.weighting.class_frequency:ClassBalanced",
    "proportion": "metaselect.reweighting.weighting.class_frequency:Proportion",
    "resample": "metaselect.reweighting.weighting.resample:Resample",
    "hard-mining": "metaselect.reweighting.weighting.hard_mining:HardMining",
    "self-paced": "metaselect.reweighting.weighting.self_paced:SelfPaced",
    "mentornet": "metaselect.reweighting.weighting.self_paced:MentorNet",
    "co-teaching": "metaselect.reweighting.weighting.co_teaching:CoTeaching",
    "ssr": "metaselect.reweighting.weighting.ssr:SampleSelectionRelabelling",
    "crust": "metaselect.reweighting.weighting.crust:Crust",
    "random": "metaselect.reweighting.weighting.random:RandomWeights",
    "weighted": "metaselect.reweighting.weighting.oracle:OracleWeights",
    "finetune": "metaselect.reweighting.bought_only:FineTune",
    "clean-only": "metaselect.reweighting.bought_only:CleanOnly",
    "uniform": "metaselect.reweighting.uniform:Uniform",
}

TRACED: tuple[str, ...] = ("auto", "direct", "l2rw", "mw-net", "fsr")
"""The re-weighters whose weights follow from bought labels, so that `--trace` can say what each of these did."""

BASELINE = "uniform"
"""The re-weighter that every other one is compared with: plain training with the bought labels in place."""

PREFERRED = "auto"
"""The re-weighter that is taken where others are just as good."""

FORMATS: dict[str, str] = {
    "csv": "metaselect.annotation.formats.csv:CsvFormat",
    "label-studio": "metaselect.annotation.formats.label_studio:LabelStudioFormat",
    "cvat": "metaselect.annotation.formats.cvat:CvatFormat",
    "hf": "metaselect.annotation.formats.hf:HfFormat",
    "html": "metaselect.annotation.formats.html:HtmlFormat",
}
"""Formats of forms that `annotate export` writes, and `annotate import` reads."""

READ_ONLY: dict[str, str] = {
    "xlsx": "metaselect.annotation.formats.read_only.xlsx:XlsxFormat",
    "doccano": "metaselect.annotation.formats.read_only.doccano:DoccanoFormat",
    "fiftyone": "metaselect.annotation.formats.read_only.fiftyone:FiftyOneFormat",
    "argilla": "metaselect.annotation.formats.read_only.argilla:ArgillaFormat",
}
"""Formats that `annotate import` reads besides."""

MODELS: dict[str, str] = {
    "linear": "metaselect.models.linear:Linear",
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
"""Prefixes of the torchvision models that are tested (``tests/test_models.py``)."""


ENCODERS: dict[str, str] = {
    DEFAULT_ENCODER: "metaselect.encoders.efficientnet_lite:load",
    "timm": "metaselect.encoders.timm:load",
    "open_clip": "metaselect.encoders.open_clip:load",
    "torchvision": "metaselect.encoders.torchvision:load",
}
"""Sources of frozen encoders; all but the first are followed by a colon and the name that the encoder has there."""

TRAINABLE_ENCODERS: tuple[str, ...] = (DEFAULT_ENCODER, "timm", "torchvision")
"""Those of ``ENCODERS`` that ``--model`` takes too, with a new linear head."""


def is_encoder(model: str) -> bool:
    """Whether a model's name is of one of ``TRAINABLE_ENCODERS``."""
    source, colon, _ = model.partition(":")
    return source in TRAINABLE_ENCODERS and bool(colon) == (source != DEFAULT_ENCODER)


def names_code(model: str) -> bool:
    """Whether a model's name is of somebody's code, ``package.module:factory``."""
    return ":" in model and model.partition(":")[0] not in ENCODERS


def load(path: str) -> Any:
    """The object that "module:name" names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


FLAG_FIELDS: tuple[str, ...] = ("gradient",)
"""Fields of methods that have a flag of their own and cannot be set by --option."""

ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)
TYPE_NAMES: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}

PROFILES: tuple[str, ...] = ("long-tail",)
"""Values of --profile. A method's ``profiles`` map such a name to values of its fields for that kind of data."""


def configure(path: str, pairs: Sequence[str], *, profile: str | None = None, **flags: str) -> Any:
    """The method at ``path``, with fields set by its profile, then by flags and "key=value" pairs.

    Args:
        path: "module:Class".
        pairs: the values of --option.
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
        raise UsageError(f"--{name} {flags[name]} has no effect on {own_name}.", f"Leave out --{name}.")
    values: dict[str, Any] = {**profile_values(path, profile), **flags}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if name in defaults and not equals:
            raise UsageError(
                f"--option {pair} has no value.", f"For example {name}={format_value(defaults[name])}"
            )
        if name not in defaults:
            known = ", ".join(f"{key}={format_value(value)}" for key, value in defaults.items()) or "none"
            more = " (--option help explains them)" if defaults else ""
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
    """The method of a command's options, with a note if it does not have the profile that was given.

    Args:
        methods: of the registry.
        options: of the command; method, option and profile are used.
        report: shows the note.
        flags: values of fields that have a flag of their own.
    """
    path = methods[options.method]
    method = configure(path, options.option, profile=options.profile, **flags)
    if options.profile is not None and not profile_values(path, options.profile):
        report.note(f"Profile {options.profile} changes nothing in {options.method}.")
    return method


def describe(path: str) -> list[tuple[str, str, str]]:
    """Name, default and meaning of every option of the method at ``path``; meanings are its docstring's Attributes."""
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
    """The name of the method at ``path`` on the command line."""
    # A name may stand in both.
    return next(
        (name for name, known in chain(SELECTORS.items(), REWEIGHTERS.items()) if known == path), path
    )


def format_value(value: object) -> str:
    """A value in the form that --option takes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def profile_values(path: str, profile: str | None) -> dict[str, Any]:
    """Values of fields that a profile sets in the method at ``path``; empty if the method does not have it.

    Raises:
        UsageError: not one of ``PROFILES``.
    """
    if profile not in (None, *PROFILES):
        raise UsageError(f"--profile {profile} is not known.", f"One of {', '.join(PROFILES)}.")
    return dict(getattr(load(path), "profiles", {}).get(profile, {}))


def settings(method: Any) -> dict[str, Json]:
    """The fields of a configured method that its result depends on, for ``stage.json``."""
    return key_options(method)


def _parse(text: str, kind: type) -> Any:
    """The text as a bool, int, float or str; ValueError if it is none."""
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return kind(text)
