"""`annotate simulate`: answers a round from a truth file."""

from dataclasses import replace

from metaselect.annotation.formats.csv import read_truth
from metaselect.annotation.ledger import add_votes, open_ledger
from metaselect.annotation.matching.reconcile import Reconciliation
from metaselect.annotation.quality.noise_estimate import noise_estimate
from metaselect.annotation.rounds import find_round, rounds, rounds_as_exported
from metaselect.annotation.simulation import SimulateOptions, error_rates, simulated_answers
from metaselect.annotation.summary import import_result
from metaselect.errors import DataError
from metaselect.options import ImportOptions
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import CLASSES
from metaselect.run.files import read_json
from metaselect.run.layout import Run
from metaselect.stages.annotate.exchange import import_answers, read_source, source_of
from metaselect.text import examples

SIMULATE = "simulate"


def simulate(run: Run, truth: str, options: SimulateOptions, report: Reporter) -> Outcome:
    """Answer the open samples of a round from a truth file, blind repeats of them too; what it lacks stays open.

    Raises:
        DataError: the truth file has no sample of the round, or holds a label that is no class.
        ArtefactError: nothing selected, or the votes were changed by hand.
        UsageError: an error rate with one class alone.
    """
    run.info()
    content = read_source(truth)
    labels = read_truth(content, truth)
    with run.lock():
        ledger = open_ledger(run)
        chosen = find_round(run, options.round)
        if labels.keys().isdisjoint(chosen.samples):
            raise DataError(
                f"{truth} has none of the {len(chosen.samples)} samples of round {chosen.number}: "
                f"{examples(list(chosen.samples))}.",
                "Use the truth file of the data set that was ingested.",
            )
        unanswered = chosen.unanswered_ids(ledger.verdicts)
        ids = [sample_id for sample_id in unanswered if sample_id in labels]
        lacking: dict[str, Json] = {"not_in_truth": len(unanswered) - len(ids)}
        if lacking["not_in_truth"]:
            report.warn(
                f"{truth} does not know {lacking['not_in_truth']} samples of round {chosen.number}; they stay open: "
                f"{examples([sample_id for sample_id in unanswered if sample_id not in labels])}."
            )
        if not ids:
            known = f" that {truth} knows" if unanswered else ""
            report.note(f"Every sample of round {chosen.number}{known} is answered.")
            ledger = add_votes(run, ledger, ())
            noise = noise_estimate(run, rounds(run), ledger)
            result = import_result(ledger, Reconciliation(), [chosen], new_votes=0, noise=noise)
            return Outcome(result | lacking)
        classes = read_json(run.path(CLASSES.path()), "Ingest the data again with --force.")
        true = {sample_id: labels[sample_id] for sample_id in ids}
        asked = rounds_as_exported([chosen], ledger)[0].samples
        again = {
            each: true[first]
            for each, first in ledger.sample_of_repeat.items()
            if each in asked and first in true
        }
        rates = error_rates(classes, options)
        answers = simulated_answers(true | again, rates, classes, chosen.batch_id, options)
        wanted = ImportOptions(round=chosen.number)
        # Truth files are written by programs, which do not escape ids or names.
        origin = source_of(content, truth, SIMULATE)
        done = import_answers(run, ledger, answers, lambda text: (text,), wanted, report, truth, origin)
        return replace(done, result={**done.result, **lacking})
