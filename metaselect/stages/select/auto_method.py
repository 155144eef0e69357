"""The rule of `select --method auto`: a method of the registry, by the options and the kind of data."""

from dataclasses import replace

from metaselect.data.store import FEATURES
from metaselect.options import SelectOptions
from metaselect.records import Reporter
from metaselect.registry import AUTO_SELECTOR
from metaselect.run.layout import Run


def with_resolved_method(run: Run, options: SelectOptions, report: Reporter) -> SelectOptions:
    """The options, with the method that stands for ``auto``; a note says which one, and why.

    Gradients of a network have factors that differ from sample to sample. Frozen features have no such history: what
    counts there is to take the typical sample of each cluster.
    """
    if options.method != AUTO_SELECTOR:
        return options
    method, reason = _method_and_reason(run, options)
    report.note(f"Method auto: {method}, {reason}.")
    return replace(options, method=method)


def _method_and_reason(run: Run, options: SelectOptions) -> tuple[str, str]:
    if options.gradient is not None:
        return "rbc", "which has --gradient"
    if options.profile is not None:
        return "rbc", "which has --profile"
    if options.features is not None or run.info()["task"] == FEATURES:
        return "k-means", "since the features are frozen"
    return "rbc", "since the features are those of a network trained on the given labels"
