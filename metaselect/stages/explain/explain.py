"""explain: why a sample was picked, why its label is doubted, and which bought labels pushed its weight."""

from bisect import bisect_left

from metaselect.annotation.consensus import BOUGHT
from metaselect.annotation.ledger import read_ledger
from metaselect.annotation.quality.noise_estimate import given_labels
from metaselect.annotation.rounds import nothing_selected_error, rounds
from metaselect.data.classes import suggest
from metaselect.errors import ArtefactError, UsageError
from metaselect.options import require_range
from metaselect.records import Json, Outcome
from metaselect.run.artefacts import REWEIGHT, SAMPLES
from metaselect.run.layout import Run
from metaselect.run.tables import read_parquet
from metaselect.stages.explain.doubt import doubt, doubt_by_warmup
from metaselect.stages.explain.selection import selection
from metaselect.stages.explain.trace import trace
from metaselect.stages.export.reweighting_choice import reweighting_with_issues
from metaselect.stages.freshness import AnnotationView
from metaselect.text import quoted

MAX_COMPARED_IDS = 10_000  # for suggestions; comparing a whole large pool would take minutes
TOP = 5  # bought labels in each direction


def explain(run: Run, sample_id: str, name: str | None = None, top: int = TOP) -> Outcome:
    """All that the run says of a sample; reads only. What it cannot say yet is in ``missing``.

    Args:
        run: the run.
        sample_id: of the sample.
        name: of the re-weighting; None: `auto`, else the only one.
        top: bought labels that pushed its weight up, and down, at most.

    Raises:
        ArtefactError: there is no run, or a file is damaged.
        UsageError: there is no such sample (the hint names similar ids), or no re-weighting of that name.
    """
    require_range("top", top, 1)
    run.info()
    given = _given_label(run, sample_id)
    ledger, all_rounds = read_ledger(run), rounds(run)
    verdict = ledger.verdicts.get(sample_id)
    bought = verdict is not None and verdict.status in BOUGHT
    missing: list[Json] = []

    def lacks(part: str, error: ArtefactError) -> None:
        missing.append({"part": part, "why": str(error), "hint": error.hint or None})

    result: dict[str, Json] = {
        "run": str(run.root),
        "sample_id": sample_id,
        "given_label": given or None,
        "bought": bought,
        "answer": verdict and {**verdict._asdict(), "clean_label": verdict.clean_label or None},
        "selection": None,
        "doubt": None,
        "trace": None,
    }
    if all_rounds:
        result["selection"] = selection(run, all_rounds, sample_id, bought=bought)
    else:
        lacks("selection", nothing_selected_error(run))
    if name is not None or run.stage_names(REWEIGHT.kind):
        chosen = reweighting_with_issues(run, name)
        result["doubt"] = doubt(run, sample_id, chosen, AnnotationView(all_rounds, ledger))
        found = trace(run, sample_id, chosen, top)
        if isinstance(found, ArtefactError):
            lacks("trace", found)
        else:
            result["trace"] = found
    else:
        result["doubt"] = doubt_by_warmup(run, sample_id, given)
        for part, flag in (("doubt", ""), ("trace", "--trace ")):
            lacks(part, _no_reweighting(run, flag))
    return Outcome({**result, "missing": missing})


def _no_reweighting(run: Run, flag: str) -> ArtefactError:
    """The error for a run without a re-weighting; ``flag`` is what the command needs besides."""
    if run.ids_alone:
        return ArtefactError("A run of ids and labels alone has no re-weighting.")
    step = f"metaselect reweight {flag}{run.model_flags}" if run.has_warmup else run.selecting_command
    return ArtefactError(f"{run.root} has no re-weighting.", f"First run: {step}")


def _given_label(run: Run, sample_id: str) -> str:
    """The given label of one sample, as a class name; empty where it has none.

    Raises:
        UsageError: it is not in the pool.
    """
    labels = given_labels(run, [sample_id])
    if sample_id not in labels:
        raise _unknown(run, sample_id)
    return labels[sample_id]


def _unknown(run: Run, sample_id: str) -> UsageError:
    """The error for an unknown id, with ids that contain it or are spelt alike."""
    ids: list[str] = read_parquet(run, SAMPLES, ["sample_id"])["sample_id"].to_pylist()
    containing = [known for known in ids if sample_id and sample_id.casefold() in known.casefold()][:3]
    if containing:
        hint = f"Did you mean {' or '.join(map(quoted, containing))}?"
    else:
        # The pool is sorted by sample_id, so ids with the same beginning are close together.
        start = max(0, min(bisect_left(ids, sample_id) - MAX_COMPARED_IDS // 2, len(ids) - MAX_COMPARED_IDS))
        suggestion = suggest(sample_id, ids[start : start + MAX_COMPARED_IDS])
        hint = f"{suggestion[0].upper()}{suggestion[1:].removesuffix('?')}{'?' if suggestion.endswith('?') else '.'}"
    return UsageError(f"There is no sample {quoted(sample_id)} in {run.root}.", hint)
