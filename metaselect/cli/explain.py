"""What `metaselect select --explain` shows."""

from collections.abc import Iterator, Mapping
from typing import Any

from metaselect.cli.console import Console
from metaselect.cli.results import finish
from metaselect.records import Outcome

WITHOUT_LABEL = {
    "bad_sample": "unusable",
    "tied": "as many votes for one answer as for another",
    "unsure": "nobody was sure",
    "skip": "skipped",
}
UNJUDGED = {
    "control": "it was drawn for the control before the method chose",
    "all_random": "the whole budget was drawn at random",
    "taken": "it was selected or bought before",
    "near_bought": "it is nearer than others to what was selected or bought before",
}


def show(console: Console, outcome: Outcome) -> None:
    """A sample's standing as lines, or as JSON where that was asked for, and the end of the command."""
    for line in _lines(outcome.result):
        console.line(line)
    finish(console, outcome)


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"{result['sample_id']}: given label {result['given_label']}"
    method = f", method {result['method']}" if result["method"] else ""
    yield f"Round {result['round']}{method}: {_pick(result) if result['selected'] else 'not selected'}"
    if result["cluster"]:
        yield from _cluster(result["cluster"], result["sample_id"])
    elif result["score"]:
        score = result["score"]
        yield f"Score {score['value']:.6g}: place {score['place']} of {score['pool']}, the highest first"
    else:
        yield f"Not judged by the method: {UNJUDGED[result['unjudged']]}."
    for pick in result["earlier"]:
        yield f"Selected in round {pick['round']}: {_pick(pick)}"
    answer = result["answer"]
    if answer:
        label = f"label {answer['clean_label']}" if answer["clean_label"] else WITHOUT_LABEL[answer["status"]]
        where = f"round {answer['round']}" if answer["round"] else "outside of all rounds"
        yield f"Answer: {label} ({where})"
    else:
        yield "Answer: none"


def _pick(pick: Mapping[str, Any]) -> str:
    return f"rank {pick['rank']}{', drawn at random for the control' if pick['control'] else ''}"


def _cluster(cluster: Mapping[str, Any], sample_id: str) -> Iterator[str]:
    mass = "" if cluster["mass"] is None else f", {cluster['mass']:.2%} of the pool's mass"
    yield f"Cluster {cluster['number']}: {cluster['size']} samples{mass}"
    yield (
        f"Similarity {cluster['similarity']:.6f}: place {cluster['place']} of "
        f"{cluster['size']}, the closest first"
    )
    pivot = cluster["pivot"]
    if pivot is None:
        yield "No selected sample stands for this cluster."
    elif pivot["sample_id"] == sample_id:
        yield "It stands for this cluster itself."
    else:
        yield (
            f"{pivot['sample_id']} (given label {pivot['given_label']}, rank {pivot['rank']}) "
            "stands for this cluster."
        )
