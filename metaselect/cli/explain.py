"""The output of `metaselect select --explain`."""

from collections.abc import Iterator, Mapping
from typing import Any

from metaselect.cli.console import Console
from metaselect.cli.results import finish
from metaselect.records import Outcome
from metaselect.text import examples

ANSWERS_WITHOUT_LABEL = {
    "bad_sample": "unusable",
    "tied": "tied votes",
    "unsure": "unsure",
    "skip": "skipped",
}
UNJUDGED_REASONS = {
    "control": "it was drawn for the control before the method ran",
    "all_random": "the whole budget was drawn at random",
    "taken": "it was selected or labelled before",
    "outlier": "it is an outlier beyond --max-outlier",
    "near_duplicate": "it is a near duplicate of a sample that was chosen, or that stood for both",
    "near_bought": "it is in the half of the pool that is closer to selected or labelled samples",
}


def show(console: Console, outcome: Outcome) -> None:
    """Print the explanation of a sample as lines, or with --json as JSON, and end the command."""
    for line in _lines(outcome.result):
        console.line(line)
    finish(console, outcome)


def _given(sample: Mapping[str, Any]) -> str:
    return f"given label {sample['given_label']}" if sample["given_label"] else "no given label"


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The explanation, line by line."""
    yield f"{result['sample_id']}: {_given(result)}"
    method = f", method {result['method']}" if result["method"] else ""
    yield f"Round {result['round']}{method}: {_pick(result) if result['selected'] else 'not selected'}"
    if result["cluster"]:
        yield from _cluster(result["cluster"], result["sample_id"])
    elif result["score"]:
        score = result["score"]
        yield f"Score {score['value']:.6g}: place {score['place']} of {score['pool']}, the highest first"
    else:
        yield f"The method gave it no score: {UNJUDGED_REASONS[result['unjudged']]}."
    if result["near_duplicates"]:
        yield f"Near duplicates: {examples(result['near_duplicates'])}"
    if result["outlier"] is not None:
        yield f"Outlier rank {result['outlier']:.4f}: that share of the other samples has closer neighbours"
    for pick in result["earlier"]:
        yield f"Selected in round {pick['round']}: {_pick(pick)}"
    answer = result["answer"]
    if answer:
        label = (
            f"label {answer['clean_label']}"
            if answer["clean_label"]
            else ANSWERS_WITHOUT_LABEL[answer["status"]]
        )
        where = f"round {answer['round']}" if answer["round"] else "outside of all rounds"
        yield f"Answer: {label} ({where})"
    else:
        yield "Answer: none"


def _pick(pick: Mapping[str, Any]) -> str:
    """The rank of a selected sample, and whether it is of the control."""
    return f"rank {pick['rank']}{', drawn at random for the control' if pick['control'] else ''}"


def _cluster(cluster: Mapping[str, Any], sample_id: str) -> Iterator[str]:
    """The lines about the cluster of the sample."""
    mass = "" if cluster["mass"] is None else f", {cluster['mass']:.2%} of the pool's mass"
    yield f"Cluster {cluster['number']}: {cluster['size']} samples{mass}"
    yield (
        f"Similarity {cluster['similarity']:.6f}: place {cluster['place']} of "
        f"{cluster['size']}, the closest first"
    )
    representative = cluster["pivot"]
    if representative is None:
        yield "No sample of this cluster was selected."
    elif representative["sample_id"] == sample_id:
        yield "It represents this cluster itself."
    else:
        about = f"{_given(representative)}, rank {representative['rank']}"
        yield f"{representative['sample_id']} ({about}) represents this cluster."
