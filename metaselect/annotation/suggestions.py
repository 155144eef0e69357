"""What a model that is on disk already says about samples, for people who ask."""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaselect.run import Run
from metaselect.run.files import read_json

CONTROL = "uniform"  # the re-weighter that learns nothing about labels: only where there is no other


def suggestions(run: Run, number: int, sample_ids: Collection[str]) -> dict[str, str]:
    """Predicted class names by sample_id; empty where no model's predictions were kept.

    Those of the latest re-weighted model by name are taken, else those of the warm-up's last checkpoint that
    round ``number`` was selected with.

    Raises:
        ArtefactError: the predictions are damaged.
    """
    path = _robust(run)
    if path:
        table = _rows(run, path, sample_ids, "predicted_label")
        return dict(zip(table["sample_id"].to_pylist(), table["predicted_label"].to_pylist(), strict=True))
    path = _gradients(run, number)
    if not path:
        return {}
    classes = read_json(run.path("data/classes.json"), "Ingest the data again with --force.")
    table = _rows(run, path, sample_ids, "probs")
    best = (max(range(len(probs)), key=probs.__getitem__) for probs in table["probs"].to_pylist())
    return {name: classes[label] for name, label in zip(table["sample_id"].to_pylist(), best, strict=True)}


def has_suggestions(run: Run, number: int) -> bool:
    """Whether ``suggestions`` would find a model's predictions; reads no table."""
    return bool(_robust(run) or _gradients(run, number))


def _robust(run: Run) -> str:
    names = run.stage_names("reweight")
    chosen = [name for name in names if not name.endswith(f"/{CONTROL}")] or names
    return f"{chosen[-1]}/weights.parquet" if chosen else ""


def _gradients(run: Run, number: int) -> str:
    """The table of the last checkpoint, if its selector kept probabilities."""
    folder = run.path(f"select/round-{number}")
    found = [
        path
        for path in sorted(folder.glob("gradients-epoch-*.parquet"))
        if "probs" in pq.read_schema(path).names
    ]
    return found[-1].relative_to(run.root).as_posix() if found else ""


def _rows(run: Run, path: str, sample_ids: Collection[str], column: str) -> pa.Table:
    run.stage("/".join(path.split("/")[:2])).verified(path)
    wanted = pc.field("sample_id").isin(sorted(sample_ids))
    return pq.read_table(run.path(path), columns=["sample_id", column], filters=wanted)
