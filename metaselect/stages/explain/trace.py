"""Which bought labels pushed the weight of a sample, when and by how much, from the files of `reweight --trace`."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from metaselect.errors import ArtefactError
from metaselect.records import Json
from metaselect.registry import TRACED
from metaselect.run.artefacts import ISSUES, REWEIGHT, REWEIGHT_HISTORY, WEIGHTS
from metaselect.run.evaluation_artefacts import TRACE_CHANGES, TRACE_PRODUCTS
from metaselect.run.layout import Run
from metaselect.run.record import StageRecord
from metaselect.run.tables import read_parquet, read_records, rows_of_lists
from metaselect.text import short

AVERAGED_EPOCHS = 3  # of l2rw's weights
MEAN_START = 0.5  # of direct's weights, which begin uniform in [0, 1)
BLOCK = 4096  # samples whose products are in single precision at a time
DIGITS = 6


class Effects(NamedTuple):
    """What m bought labels did to the weight of one sample.

    Attributes:
        epochs: that the rows are of; empty where the method was fitted without each label.
        pushes: (max(T, 1), m), positive where the label raised the weight.
        weight: by the rule that ``without`` is by, with all labels; None where there is no such rule.
        without: (m,) the weight without each label; None as above.
    """

    epochs: list[int]
    pushes: np.ndarray
    weight: float | None
    without: np.ndarray | None


def trace(run: Run, sample_id: str, name: str, top: int) -> dict[str, Json] | ArtefactError:
    """The effects of bought labels on the weight of a sample, or why they are not known.

    Args:
        run: the run.
        sample_id: of a sample of the pool.
        name: of a finished re-weighting.
        top: labels that raised the weight, and that lowered it, at most.

    Raises:
        ArtefactError: a file is damaged.
    """
    stage = run.stage(REWEIGHT.name(name=name))
    record = stage.require()
    kept = [output for output in record.outputs if output in _files(record)]
    if not kept:
        return _no_trace(run, name, record)
    for output in (*kept, WEIGHTS.within(), REWEIGHT_HISTORY.within()):
        stage.verified(f"{stage.name}/{output}")
    table = read_parquet(run, WEIGHTS, ["sample_id", "bought", "label_issue_rank"], name=name)
    ids, bought = table["sample_id"].to_pylist(), table["bought"].to_numpy()
    weighed = np.array(table["label_issue_rank"].is_valid())
    place = ids.index(sample_id)
    if not weighed[place]:
        reason = "its own label was bought" if bought[place] else "it has no label that could be weighed"
        return ArtefactError(f"{short(sample_id)} has no trace: {reason}.")
    effects = _effects(run, record, name, sample_id, weighed)
    return _as_json(run, name, effects, [ids[index] for index in np.flatnonzero(bought)], top)


def _no_trace(run: Run, name: str, record: StageRecord) -> ArtefactError:
    """Why a re-weighting has no trace, and the command that makes one."""
    method = str(record.key.options["method"])
    folder = REWEIGHT.name(name=name)
    if method not in TRACED:
        return ArtefactError(
            f"{folder} has no trace, which {method} cannot have.",
            f"One of {', '.join(TRACED)} can: metaselect reweight --trace {run.model_flags}",
        )
    return ArtefactError(
        f"{folder} was made without --trace.", f"Run: {run.stage(folder).command('--trace', '--force')}"
    )


def _files(record: StageRecord) -> list[str]:
    return [TRACE_CHANGES.within(), *(TRACE_PRODUCTS.within(epoch=epoch) for epoch in _epochs(record))]


def _epochs(record: StageRecord) -> list[int]:
    """The epochs that products were kept of."""
    count = int(record.details.get("training", {}).get("epochs", 0))
    return [epoch for epoch in range(1, count + 1) if TRACE_PRODUCTS.within(epoch=epoch) in record.outputs]


def _effects(run: Run, record: StageRecord, name: str, sample_id: str, weighed: np.ndarray) -> Effects:
    """The effects on the sample; ``weighed`` (n,) bool are the samples that the method weighed."""
    where = ("sample_id", "==", sample_id)
    if TRACE_CHANGES.within() in record.outputs:
        table = read_parquet(run, TRACE_CHANGES, ["weight", "changes"], where=where, name=name)
        changes = rows_of_lists(table["changes"]).astype(np.float64)
        weight = float(table["weight"][0].as_py())
        return Effects([], changes, weight, (weight - changes[0]).clip(0, 1))
    epochs, rows = _epochs(record), []
    for epoch in epochs:
        table = read_parquet(run, TRACE_PRODUCTS, ["products", "scale"], where=where, name=name, epoch=epoch)
        rows.append(_products(table["products"], table["scale"])[0])
    pushes = np.stack(rows).astype(np.float64)
    rules = {"l2rw": _rule_of_l2rw, "direct": _rule_of_direct}
    method = str(record.key.options["method"])
    if method not in rules:
        return Effects(epochs, pushes, None, None)
    with_and_without = rules[method](run, record, name, epochs, pushes, weighed)
    return Effects(epochs, pushes, float(with_and_without[0]), with_and_without[1:])


def _rule_of_l2rw(
    run: Run, record: StageRecord, name: str, epochs: Sequence[int], pushes: np.ndarray, weighed: np.ndarray
) -> np.ndarray:
    """(1 + m,) weights by Eq. 8 and 9 of Ren et al. 2018: with all labels, and without each of them.

    The pool stands for the batch, so that the sum over a batch is B times the mean over the pool. As the method's own
    weight, it is the mean over the last 3 epochs, of which those count that products were kept of.
    """
    last = [epoch for epoch in epochs if epoch > epochs[-1] - AVERAGED_EPOCHS]
    weights = []
    for epoch in last:
        total, count = np.zeros(1 + pushes.shape[1]), int(weighed.sum())
        for block in _weighed_products(run, name, epoch, weighed):
            total += sums_without(block).clip(0).sum(0)
        own = sums_without(pushes[[epochs.index(epoch)]])[0].clip(0)
        mean = total / count
        weights.append(np.divide(own, mean, out=np.zeros_like(own), where=mean > 0).clip(max=1))
    result: np.ndarray = np.mean(weights, axis=0)
    return result


def _rule_of_direct(
    run: Run, record: StageRecord, name: str, epochs: Sequence[int], pushes: np.ndarray, weighed: np.ndarray
) -> np.ndarray:
    """(1 + m,) weights by Eq. 3 of Wu et al. 2023, one visit an epoch: with all labels, and without each of them.

    They begin at the mean of the random start; an epoch takes the products of the next one that was kept.
    """
    m = pushes.shape[1]
    counts = np.array([m, *[max(m - 1, 1)] * m])
    s = sums_without(pushes) / counts  # (T, 1 + m), the gradients' mean over the bought labels
    step = float(record.key.options["option"]["step"])  # type: ignore[index, call-overload, arg-type]
    peak = float(record.key.options["lr"])  # type: ignore[arg-type]
    weights = np.full(1 + m, MEAN_START)
    for row in read_records(run, REWEIGHT_HISTORY, name=name):
        kept = int(np.searchsorted(epochs, int(row["epoch"])))
        weights = (weights + step * float(row["lr"]) / peak * s[kept]).clip(0, 1)
    return weights


def sums_without(products: np.ndarray) -> np.ndarray:
    """(b, 1 + m) the sums of the rows of (b, m) products, and what they are without each of the columns."""
    total = products.sum(1, keepdims=True)
    return np.concatenate([total, total - products], 1)


def _weighed_products(run: Run, name: str, epoch: int, weighed: np.ndarray) -> Iterator[np.ndarray]:
    """(b, m) float32 products of the samples that the method weighed, block by block."""
    table = read_parquet(run, TRACE_PRODUCTS, ["products", "scale"], name=name, epoch=epoch)
    for start in range(0, len(table), BLOCK):
        part = table.slice(start, BLOCK)
        yield _products(part["products"], part["scale"])[weighed[start : start + BLOCK]]


def _products(scaled: pa.ChunkedArray, scale: pa.ChunkedArray) -> np.ndarray:
    """(b, m) float32."""
    products: np.ndarray = rows_of_lists(scaled).astype(np.float32) * scale.to_numpy()[:, None]
    return products


def _as_json(run: Run, name: str, effects: Effects, bought: Sequence[str], top: int) -> dict[str, Json]:
    """The effects in shares of the sum of all absolute pushes, the strongest first in each direction."""
    total = float(np.abs(effects.pushes).sum())
    shares = effects.pushes / total if total else np.zeros_like(effects.pushes)
    push = shares.sum(0)
    order = np.argsort(-push, kind="stable")
    shown = [place for place in order[:top].tolist() if push[place] > 0]
    shown += [place for place in order[::-1][:top].tolist() if push[place] < 0]
    by_id = _labels(run, name, [bought[place] for place in shown])
    return {
        "by": "products" if effects.epochs else "refits",
        "epochs": [*effects.epochs],
        "bought": len(bought),
        "weight": effects.weight if effects.weight is None else round(effects.weight, DIGITS),
        "up": round(float(push.clip(0).sum()), DIGITS),
        "down": round(float(-push.clip(max=0).sum()), DIGITS),
        "labels": [
            {
                **by_id[bought[place]],
                "push": round(float(push[place]), DIGITS),
                "by_epoch": [round(share, DIGITS) for share in shares[:, place].tolist()]
                if effects.epochs
                else [],
                "net_without": round(float(push.sum() - push[place]), DIGITS),
                "weight_without": None
                if effects.without is None
                else round(float(effects.without[place]), DIGITS),
            }
            for place in shown
        ],
    }


def _labels(run: Run, name: str, ids: list[str]) -> dict[str, dict[str, Json]]:
    """Id, given and bought label of bought samples, by the id."""
    if not ids:
        return {}
    columns, where = ["sample_id", "given_label", "bought_label"], ("sample_id", "in", ids)
    rows: list[dict[str, Json]] = read_parquet(run, ISSUES, columns, where=where, name=name).to_pylist()
    return {str(row["sample_id"]): row for row in rows}
