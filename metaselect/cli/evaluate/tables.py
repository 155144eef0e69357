"""What `metaselect evaluate` prints: tables that a terminal of 80 columns has room for, and sentences."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from metaselect.cli.console import Console
from metaselect.cli.results import print_model_choice, print_noise_estimate, print_wrong_labels
from metaselect.registry import BASELINE
from metaselect.run.evaluation_artefacts import METRICS, PER_CLASS
from metaselect.text import short

SHOWN = 10  # classes
SCORES: tuple[tuple[str, str, str, Callable[..., float]], ...] = (
    ("accuracy", "test_accuracy", "{:.2%}", max),
    ("balanced", "balanced_accuracy", "{:.2%}", max),
    ("macro\nF1", "macro_f1", "{:.3f}", max),
    ("log\nloss", "log_loss", "{:.3f}", min),
    ("ECE", "calibration_error", "{:.3f}", min),
)
"""Header, key, format, and which value is the best."""
RANKINGS: tuple[tuple[str, str, str, Callable[..., float]], ...] = (
    ("weight\nAUC", "weight_auc", "{:.4f}", max),
    ("rank\nAUC", "rank_auc", "{:.4f}", max),
    ("average\nprecision", "average_precision", "{:.4f}", max),
    ("wrong in\nfirst k", "precision_at_k", "{:.1%}", max),
    ("labels\nright", "correct_labels", "{:.1f}", max),
)
BEST = "* the best of its column"


def print_evaluation(console: Console, result: Mapping[str, Any]) -> None:
    """Print the scores of every model, what is known of the labels, and the model to take."""
    models = {"warmup": result["warmup"], **result["reweight"]}
    marked = _columns(models.values(), SCORES)
    header, cells = (
        [name for name, *_ in SCORES],
        [marked[0], list(map(_interval, models.values())), *marked[1:]],
    )
    console.table(
        ("model", header[0], "95 %\ninterval", *header[1:]),
        list(zip(models, *cells, strict=True)),
        title=f"{result['test']}: {result['test_samples']} samples",
    )
    if any(cell.startswith("*") for column in cells for cell in column):
        console.line(BEST)
    if result.get("judged_on", "test_set") != "test_set":
        from metaselect.stages.evaluate.bought_labels import what_is_judged

        console.line(what_is_judged(result["judged_on"], result["test_samples"]))
    for name, metrics in models.items():
        if metrics.get("not_judged"):
            console.line(f"{name} is not judged: {metrics['not_judged']}.")
    for sentence in _differences(result["reweight"]):
        console.line(sentence)
    if result["take"]:
        name = result["take"]["model"]
        _print_classes(console, name, models[name].get("worst_classes") or [])
        if len(result["classes"]) > SHOWN:
            console.line(f"Every class: {result['run']}/{PER_CLASS.path(test=result['test'])}")
    if "noise" in result:
        _print_truth(console, result, models)
    print_noise_estimate(console, result.get("noise_estimate"))
    metrics_file = f"{result['run']}/{METRICS.path(test=result['test'])}"
    _print_noise_by_class(console, result.get("noise_by_class", {}), metrics_file)
    for name, metrics in result["reweight"].items():
        if metrics["wrong_labels"]:
            console.line(f"{name}:")
            print_wrong_labels(console, metrics["wrong_labels"])
    print_model_choice(console, result)


def _columns(
    rows: Collection[Mapping[str, Any]], columns: Sequence[tuple[str, str, str, Callable[..., float]]]
) -> list[list[str]]:
    """The cells of each column; the best values are marked where not all are equal."""
    found = []
    for _, key, form, choose in columns:
        values = [row.get(key) for row in rows]
        known = [value for value in values if value is not None]
        best = choose(known) if len(set(known)) > 1 else None
        found.append(
            [
                f"{'*' if value is not None and value == best else ''}{_number(value, form)}"
                for value in values
            ]
        )
    return found


def _differences(models: Mapping[str, Any]) -> Iterator[str]:
    """How much better or worse each re-weighting is than the baseline; than the warm-up where there is none."""
    from metaselect.metrics.paired import PairedDifference
    from metaselect.stages.reweight.comparison import WARMUP_NAME, difference_phrase

    for name, metrics in models.items():
        other = BASELINE if metrics["against_baseline"] else WARMUP_NAME
        found = metrics["against_baseline"] or metrics.get("against_warmup")
        if found:
            told = ", which was told the true labels," if metrics.get("oracle") else ""
            yield f"{name}{told} is {difference_phrase(PairedDifference(**found), other)}."


def _print_classes(console: Console, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the classes of which a model gets the smallest share right, the worst first."""
    if not rows:
        return
    worst = rows[0]
    console.table(
        ("class", "samples", "recall %", "precision %", "F1 %"),
        [
            (row["label"], str(row["support"]), *(_score(row, key) for key in ("recall", "precision", "f1")))
            for row in rows
        ],
        title=f"Classes of {name}, the worst first, with 95 % intervals",
    )
    right = f"{worst['right']} of {worst['support']} samples right"
    console.line(f"The worst class of {name} is {short(worst['label'])}: {right}.")


def _print_truth(console: Console, result: Mapping[str, Any], models: Mapping[str, Any]) -> None:
    """Print what a truth file tells: the rankings of label issues, the right labels, and the noise."""
    rows = dict(models)
    for name, ranking in result["warmup"].get("rankings", {}).items():
        other = {"rank_auc": ranking["auc"], **ranking}
        same = all(result["warmup"][key] == other[key] for key in ("rank_auc", "average_precision"))
        if not same:  # the warm-up's own row is by one of them
            rows[f"warmup: {name}"] = other
    cells = _columns(rows.values(), RANKINGS)
    k = result["warmup"].get("k")
    console.table(
        ("ranking", *(name for name, *_ in RANKINGS)),
        list(zip(rows, *cells, strict=True)),
        title=f"Wrong labels found, by the truth; k is {'-' if k is None else k}",
    )
    if "correct_labels" in result:
        console.line(_correct_labels(result["correct_labels"]))
    console.line(_noise(result["noise"]))


def _correct_labels(found: Mapping[str, Any]) -> str:
    """The sentence on how many labels are right."""
    given = f"Right labels, of {found['samples']}: {found['given']} as given"
    if not found["bought"]:
        return f"{given}."
    return (
        f"{given}, {found['right']} with the {found['bought']} bought ones in place "
        f"(bought at random {found['random']:.1f}, at best {found['oracle']})."
    )


def _noise(noise: Mapping[str, Any]) -> str:
    """The sentence on the labels that a truth file calls wrong, and on the samples that it says nothing of."""
    others = [f"{noise['unusable']} are unusable"] * bool(noise["unusable"])
    others += [f"{noise['not_in_truth']} are not in the truth file"] * bool(noise["not_in_truth"])
    left_out = f"; of the others, {' and '.join(others)}" if others else ""
    rate = _number(noise["measured_rate"], "{:.2%}")
    return f"Measured noise rate: {rate} of {noise['samples']} samples{left_out}"


def _print_noise_by_class(console: Console, found: Mapping[str, Any], metrics_file: str) -> None:
    """Print the noise rate of each given label, from control samples."""
    if not found:
        return
    rows = sorted(found.items(), key=lambda row: -row[1]["rate"])
    console.table(
        ("given label", "answered", "wrong", "rate", "95 % interval"),
        [
            (label, str(noise["answered"]), str(noise["wrong"]), f"{noise['rate']:.1%}", _limits(noise, 1))
            for label, noise in rows[:SHOWN]
        ],
        title="Noise by given label, from the control samples; few samples give wide intervals",
    )
    if len(rows) > SHOWN:
        console.line(f"{len(rows) - SHOWN} more: {metrics_file}")


def _interval(metrics: Mapping[str, Any]) -> str:
    """The limits of the accuracy in percent; "-" where there are none."""
    low, high = (metrics.get(f"test_accuracy_{end}") for end in ("low", "high"))
    return "-" if low is None or high is None else _limits({"low": low, "high": high}, 1)


def _score(row: Mapping[str, Any], key: str) -> str:
    """A score with its limits in percent, "97.2 (95-98)"; "-" where there is none."""
    if row[key] is None:
        return "-"
    limits = {end: row[f"{key}_{end}"] for end in ("low", "high")}
    return f"{100 * row[key]:.1f} ({_limits(limits, 0)})"


def _limits(found: Mapping[str, Any], digits: int) -> str:
    """Two shares in percent: "96.0-98.1"."""
    return f"{100 * found['low']:.{digits}f}-{100 * found['high']:.{digits}f}"


def _number(value: float | None, form: str) -> str:
    """The number in a format such as "{:.1%}", "-" for None."""
    return "-" if value is None else form.format(value)
