"""The labelling page beside many votes: milliseconds from an answer to the next sample, and until it is recorded.

    python benchmarks/serve_answers.py

N votes of one annotator are in the run, for N samples of round 1; round 2 has 1,000 samples of which none is answered.
An answer is measured from the call to its return: by then the vote is flushed to disk. "recorded" is the time until
meta_set.csv and stage.json are written too and the run is unlocked; the page does not wait for it. In the rows "in a
row" the next answer is given at once, while the record of the last one is still being written, which no person does.
"full read" is what one read of all votes costs, as every answer did before.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from vote_import import CLASSES, make_run

from metaselect.annotation.imports import Source
from metaselect.annotation.ledger import add_votes, open_ledger, read_ledger
from metaselect.annotation.rounds import find_round
from metaselect.annotation.votes import Vote
from metaselect.run.files import write_csv
from metaselect.run.key import StageKey
from metaselect.run.layout import Run
from metaselect.run.record import write_record
from metaselect.web.labeling_session import LabelingSession
from metaselect.web.submitted_answer import SubmittedAnswer

TIME = "2026-01-01T00:00:00Z"
ROUND = 1000  # samples of the round that is answered


def annotated_run(root: Path, votes: int) -> Run:
    """A run with that many votes in round 1, and a second round without any."""
    run = make_run(root, votes + ROUND)
    header = ("sample_id", "rank", "cluster", "cluster_size", "cluster_mass", "similarity", "control")
    folder = run.path("select/round-2")
    folder.mkdir(parents=True)
    rows = ((f"s{votes + place:07d}", place + 1, 0, ROUND, 1.0, 0.5, 0) for place in range(ROUND))
    write_csv(folder / "selected.csv", header, rows)
    write_record(folder, StageKey({}, {}), {})
    answered = (
        Vote(f"s{number:07d}", CLASSES[number % 10], "anna", "done", "", 1, TIME) for number in range(votes)
    )
    with run.lock():
        add_votes(run, open_ledger(run), answered, Source(TIME, "votes.csv", "", "csv"))
    return run


def timed(session: LabelingSession, keys: range, *, wait: bool) -> tuple[list[float], list[float]]:
    """Milliseconds of each answer, and until it was recorded (where the next one waits for that)."""
    answers, records = [], []
    for key in keys:
        began = time.perf_counter()
        session.answer("browser", "ben", SubmittedAnswer(key, "done", key % 10))
        answers.append((time.perf_counter() - began) * 1000)
        if wait:
            session.wait_until_recorded()
            records.append((time.perf_counter() - began) * 1000)
    session.wait_until_recorded()
    return answers, records


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--answers", type=int, default=200)
    arguments = parser.parse_args()
    print(
        "| votes | answers | ms an answer, median | 95 % | most | recorded after ms, median | full read ms |\n"
        "|---|---|---|---|---|---|---|"
    )
    for votes in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            run = annotated_run(Path(folder) / "run", votes)
            began = time.perf_counter()
            read_ledger(run).verdicts  # noqa: B018  # computed when it is asked for
            full = (time.perf_counter() - began) * 1000
            session = LabelingSession(run, find_round(run, 2), CLASSES)
            session.next("browser")  # reads all votes, once
            for start, pace, wait in ((0, "one by one", True), (arguments.answers, "in a row", False)):
                answers, records = timed(session, range(start, start + arguments.answers), wait=wait)
                answers.sort()
                recorded = f"{statistics.median(records):.0f}" if records else "-"
                print(
                    f"| {votes:,} | {pace} | {statistics.median(answers):.1f} | "
                    f"{answers[int(0.95 * len(answers))]:.1f} | {answers[-1]:.1f} | {recorded} | {full:.0f} |",
                    flush=True,
                )
            session.close()
            run.stage("annotate").check(thorough=True)


if __name__ == "__main__":
    main()
