"""`metaselect explain`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from metaselect.cli.console import WIDTH, Console
from metaselect.cli.flags import JsonOption, QuietOption, RunOption
from metaselect.cli.results import finish
from metaselect.run.layout import Run
from metaselect.text import examples, short

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
LEAST_CHANGE = 0.001  # of a weight; smaller ones are nothing, whatever their shares


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(explain)


def explain(
    sample_id: Annotated[str, typer.Argument(metavar="SAMPLE_ID", help="A sample of the training set.")],
    run: RunOption = None,
    name: Annotated[
        str | None, typer.Option(help="The re-weighting.", show_default="auto, else the only one")
    ] = None,
    top: Annotated[
        int, typer.Option(help="Bought labels to show that raised the weight most, and that lowered it most.")
    ] = 5,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say why a sample was picked, why its label is doubted, and which bought labels pushed its weight.

    It takes no lock and writes nothing. The last part takes a re-weighting with --trace.

    Examples:
        metaselect explain 4711 --run RUN

        metaselect explain 4711 --run RUN --name l2rw --top 10
    """
    console = Console(as_json=as_json, quiet=quiet)
    run_directory = Run.at(run)
    from metaselect.stages.explain.explain import explain as run_explain

    outcome = run_explain(run_directory, sample_id, name, top)
    result: Any = outcome.result
    for line in _lines(result):
        console.line(line)
    if result["trace"]:
        _print_labels(console, result["trace"])
    for each in result["missing"]:
        console.line(" ".join(filter(None, (each["why"], each["hint"]))))
    finish(console, outcome)


def _given(sample: Mapping[str, Any]) -> str:
    return f"given label {short(sample['given_label'])}" if sample["given_label"] else "no given label"


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    """All but the bought labels and what is missing, line by line."""
    yield f"{short(result['sample_id'])}: {_given(result)}"
    if result["selection"]:
        yield from _selection(result["selection"], result["sample_id"])
    yield _answer(result["answer"])
    if result["doubt"]:
        yield from _doubt(result["doubt"])


def _selection(found: Mapping[str, Any], sample_id: str) -> Iterator[str]:
    """Why it was picked or not."""
    method = f", method {found['method']}" if found["method"] else ""
    yield f"Round {found['round']}{method}: {_pick(found) if found['selected'] else 'not selected'}"
    if found["cluster"]:
        yield from _cluster(found["cluster"], sample_id)
    elif found["score"]:
        score = found["score"]
        yield f"Score {score['value']:.6g}: place {score['place']} of {score['pool']}, the highest first"
    else:
        yield f"The method gave it no score: {UNJUDGED_REASONS[found['unjudged']]}."
    if found["near_duplicates"]:
        yield f"Near duplicates: {examples(found['near_duplicates'])}"
    if found["outlier"] is not None:
        yield f"Outlier rank {found['outlier']:.4f}: that share of the other samples has closer neighbours"
    for pick in found["earlier"]:
        yield f"Selected in round {pick['round']}: {_pick(pick)}"


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
        yield f"{short(representative['sample_id'])} ({about}) represents this cluster."


def _answer(answer: Mapping[str, Any] | None) -> str:
    if not answer:
        return "Answer: none"
    label = (
        f"label {short(answer['clean_label'])}"
        if answer["clean_label"]
        else ANSWERS_WITHOUT_LABEL[answer["status"]]
    )
    where = f"round {answer['round']}" if answer["round"] else "outside of all rounds"
    return f"Answer: {label} ({where})"


def _doubt(doubt: Mapping[str, Any]) -> Iterator[str]:
    """Why its label is doubted."""
    if doubt["name"]:
        rank = (
            f", place {doubt['rank']} of {doubt['ranked']} among the labels to doubt" if doubt["rank"] else ""
        )
        yield f"Re-weighting {doubt['name']}: weight {doubt['weight']:.4f} ({doubt['weight_kind']}){rank}"
        if doubt["why"]:
            yield f"It is {doubt['state']}: {doubt['why']}"
    if doubt["suggested_label"] is not None:
        yield f"Suggested label: {short(doubt['suggested_label'])}, probability {doubt['suggested_prob']:.4f}"
        yield f"The final model predicts {short(doubt['predicted_label'])} with {doubt['predicted_prob']:.4f}"
    if doubt["out_of_fold"] is not None:
        yield f"Probability of the given label by models that did not see it: {doubt['out_of_fold']:.4f}"
    if doubt["neighbours"] is not None:
        yield f"Share of the nearest other samples with the given label: {doubt['neighbours']:.4f}"
    if doubt["conflict"]:
        others = [f"{each['sample_id']} ({each['given_label']})" for each in doubt["duplicates"]]
        yield f"Its near duplicates have different given labels: {examples(others)}"


def _print_labels(console: Console, trace: Mapping[str, Any]) -> None:
    """Print the bought labels that pushed the weight most, with what the numbers are."""
    balance = f"{trace['up']:.1%} of what {trace['bought']} bought labels did raised the weight"
    console.line(f"{balance}, {trace['down']:.1%} lowered it")
    header = ["bought sample", "label", "push", *(["most in\nepoch"] if trace["epochs"] else [])]
    by_rule = trace["weight"] is not None
    header.append("weight\nwithout it" if by_rule else "net\nwithout it")
    rows = []
    for label in trace["labels"]:
        when = [_strongest(trace["epochs"], label["by_epoch"])] if trace["epochs"] else []
        rest = f"{label['weight_without']:.4f}" if by_rule else f"{label['net_without']:+.1%}"
        names = (short(label["sample_id"]), short(label["bought_label"]))
        rows.append((*names, f"{label['push']:+.1%}", *when, rest))
    if rows:
        console.table(header, rows, width=WIDTH)
    for line in _words(trace):
        console.line(line)


def _strongest(epochs: Sequence[int], shares: Sequence[float]) -> str:
    """The epoch in which a label pushed most."""
    return str(max(zip(epochs, shares, strict=True), key=lambda each: abs(each[1]))[0])


def _words(trace: Mapping[str, Any]) -> Iterator[str]:
    """What the numbers are, and what they are not."""
    if not trace["epochs"]:
        yield (
            f"The weight by the model of the labels alone, which is fitted again without a label, is "
            f"{trace['weight']:.4f}."
        )
        changes = [abs(trace["weight"] - label["weight_without"]) for label in trace["labels"]]
        if max(changes, default=0) < LEAST_CHANGE:
            yield f"No bought label changes it by {LEAST_CHANGE:g}."
        return
    yield "Pushes are products of this run's last-layer gradients, which stand for those of the whole model."
    if trace["weight"] is not None:
        yield f"By them alone the method's rule gives the weight {trace['weight']:.4f}, with all labels."
    yield "A training without a label would take another course."
