"""`annotate simulate`: answers a round from a truth file."""

from metaselect.annotation.formats.csv import read_truth
from metaselect.annotation.ledger import add_votes, open_ledger
from metaselect.annotation.matching.reconcile import Reconciliation
from metaselect.annotation.quality.noise_estimate import noise_estimate
from metaselect.annotation.rounds import find_round, rounds, rounds_as_exported
from metaselect.annotation.simulation import SimulateOptions, error_rates, simulated_answers
from metaselect.annotation.summary import examples, import_result
from metaselect.errors import DataError
from metaselect.options import ImportOptions
from metaselect.records import Outcome, Reporter
from metaselect.run.artefacts import CLASSES
from metaselect.run.files import read_json
from metaselect.run.layout import Run
from metaselect.stages.annotate.exchange import import_answers, read_source, source_of

SIMULATE = "simulate"


def simulate(run: Run, truth: str, options: SimulateOptions, report: Reporter) -> Outcome:
    """Answer the open samples of a round from a truth file, blind repeats of them too.

    Raises:
        DataError: the truth file lacks a sample, or holds a label that is no class.
        ArtefactError: nothing selected, or the votes were changed by hand.
        UsageError: an error rate with one class alone.
    """
    run.info()
    content = read_source(truth)
    labels = read_truth(content, truth)
    with run.lock():
        ledger = open_ledger(run)
        chosen = find_round(run, options.round)
        ids = chosen.unanswered_ids(ledger.verdicts)
        lacking = [sample_id for sample_id in ids if not labels.get(sample_id, "").strip()]
        if lacking:
            raise DataError(
                f"{truth} has no clean_label for {len(lacking)} samples of round {chosen.number}: "
                f"{examples(lacking)}.",
                "Use the truth file of the data set that was ingested.",
            )
        if not ids:
            report.note(f"Every sample of round {chosen.number} is answered.")
            ledger = add_votes(run, ledger, ())
            noise = noise_estimate(run, rounds(run), ledger)
            return Outcome(import_result(ledger, Reconciliation(), [chosen], new_votes=0, noise=noise))
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
        return import_answers(run, ledger, answers, lambda text: (text,), wanted, report, truth, origin)
