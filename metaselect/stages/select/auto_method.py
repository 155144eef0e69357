"""The rule of `select --method auto`: a method of the registry, by the options and the kind of data."""

from dataclasses import replace

from metaselect.data.store import trained_on
from metaselect.options import SelectOptions
from metaselect.records import Reporter
from metaselect.registry import AUTO_SELECTOR
from metaselect.run.layout import FEATURES, Run
from metaselect.stages.select.listed import LISTED, check_listed


def with_resolved_method(
    run: Run, options: SelectOptions, report: Reporter, *, has_labels: bool
) -> SelectOptions:
    """The options, with the method that stands for ``auto`` or for a list; a note says which one, and why.

    On frozen features the typical sample of each cluster is the best first purchase, and disagreement a better second
    one than more clusters. With a network trained on the given labels neither was better than ``rbc``, in any round
    (``docs/selection.md`` has the measurements).

    Args:
        run: the run.
        options: of the command.
        report: takes the note.
        has_labels: whether labels were bought outside this round.
    """
    if options.samples is not None:
        check_listed(options)
        return replace(options, method=LISTED)
    if options.method != AUTO_SELECTOR:
        return options
    method, reason = _method_and_reason(run, options, has_labels=has_labels)
    report.note(f"Method auto: {method}, {reason}.")
    return replace(options, method=method)


def _method_and_reason(run: Run, options: SelectOptions, *, has_labels: bool) -> tuple[str, str]:
    if options.gradient is not None:
        return "rbc", "which has --gradient"
    if options.profile is not None:
        return "rbc", "which has --profile"
    if options.features is not None or trained_on(run) == FEATURES:
        return for_frozen_features(has_labels=has_labels)
    return "rbc", "since the features are those of a network trained on the given labels"


def for_frozen_features(*, has_labels: bool) -> tuple[str, str]:
    """The method for features of a frozen encoder, and why; as ``with_resolved_method``."""
    if has_labels:
        return "disagreement", "since the features are frozen and labels were bought before"
    return "k-means", "since the features are frozen"
