"""``open_run``: the tables of a run as DataFrames. It takes no lock and writes nothing. No torch."""

from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from metaselect.annotation.ledger import read_ledger
from metaselect.annotation.ledger_record import require_recorded
from metaselect.annotation.rounds import nothing_selected_error
from metaselect.annotation.votes import Vote
from metaselect.api.frames import ID, frame_of_cells, frame_of_scores, frame_of_table
from metaselect.errors import ArtefactError, MetaSelectError, UsageError
from metaselect.records import SilentReporter
from metaselect.run.artefacts import (
    ANNOTATE,
    CLASSES,
    DATA,
    EVALUATE,
    ISSUES,
    META_SET,
    REWEIGHT,
    SAMPLES,
    SELECT,
    SELECTED,
    WARMUP,
    WARMUP_PREDICTIONS,
    WEIGHTS,
)
from metaselect.run.evaluation_artefacts import METRICS, PREDICTIONS
from metaselect.run.files import read_json
from metaselect.run.layout import Run
from metaselect.run.schema import Artefact, Folder
from metaselect.run.stage_names import round_of, stage_of
from metaselect.run.tables import read_records, require_parquet, rows_of_lists
from metaselect.stages.freshness import STALE, AnnotationView, state_of
from metaselect.stages.model_choice import ModelChoice
from metaselect.stages.status import status

VOTE_TYPES = {**dict.fromkeys(Vote._fields, "string"), "round": "Int64"}
META_SET_TYPES = dict.fromkeys(META_SET.columns, "string")
SELECTED_TYPES = {
    **{ID: "string", "round": "Int64", "rank": "Int64", "cluster": "Int64", "cluster_size": "Int64"},
    **{"cluster_mass": "float64", "similarity": "float64", "control": "boolean"},
}


def open_run(path: "str | PathLike[str]", *, stale_ok: bool = False) -> "RunTables":
    """The tables of a run.

    Args:
        path: the run directory.
        stale_ok: read also what a stage made from inputs that have changed since; else that is an error, which names
            the command that brings the stage up to date.

    Raises:
        UsageError: the path is a file.
        ArtefactError: there is no run.
    """
    run = Run.at(Path(path))
    run.info()
    return RunTables(run, stale_ok=stale_ok)


class RunTables:
    """The tables of a run as pandas DataFrames, each indexed by sample_id if nothing else is said.

    Ids, labels and names are text: "007" is not 7. What is missing is NA. Each call reads the files as they are then.
    Every method raises ArtefactError, with the command that mends it, where a file is missing, damaged or stale, and
    UsageError for a name that the run does not have.
    """

    def __init__(self, run: Run, *, stale_ok: bool) -> None:
        self._run = run
        self._stale_ok = stale_ok

    def samples(self) -> pd.DataFrame:
        """Every sample of the pool, as it was ingested: given_label, content_hash, source."""
        return self._parquet(SAMPLES)

    def weights(self, name: str | None = None) -> pd.DataFrame:
        """The weight of every sample of the pool, and what else is in ``weights.parquet``.

        Args:
            name: of the re-weighting; None: the only one, or that which `status` says to take.
        """
        return self._parquet(WEIGHTS, name=self._reweighting(name))

    def issues(self, name: str | None = None) -> pd.DataFrame:
        """Why the given label of every sample is doubted, and which one to put instead; rank 1 is to be doubted first.

        Args:
            name: as for ``weights``.
        """
        return self._parquet(ISSUES, name=self._reweighting(name))

    def selected(self) -> pd.DataFrame:
        """The samples that were chosen, by round and rank."""
        stages = self._run.stage_names(SELECT.kind)
        if not stages:
            raise nothing_selected_error(self._run)
        rows = []
        for number in map(round_of, stages):
            # Whatever its inputs are now: a round stays as it is while people answer it.
            self._run.stage(SELECT.name(number=number)).verified(SELECTED.path(number=number))
            for cells in read_records(self._run, SELECTED, number=number):
                rows.append([{**cells, "round": number}[column] for column in SELECTED_TYPES])
        return frame_of_cells(rows, SELECTED_TYPES)

    def votes(self) -> pd.DataFrame:
        """Every answer of every annotator, the oldest first; a sample can have several, or none."""
        return frame_of_cells(read_ledger(self._run).votes, VOTE_TYPES)

    def meta_set(self) -> pd.DataFrame:
        """The bought labels, on which annotators agree: clean_label, NA for a sample that they called unusable."""
        require_recorded(self._run)
        if self._run.stage(ANNOTATE.name()).record() is not None:
            self._require(META_SET.path())
        rows = read_records(self._run, META_SET)
        return frame_of_cells([[*row.values()] for row in rows], META_SET_TYPES)

    def probs(self) -> pd.DataFrame:
        """Class probabilities of every sample of the pool by the warm-up, one column a class.

        They are of models that were trained without the sample, if the warm-up had folds.
        """
        table = self._table(WARMUP_PREDICTIONS)
        folded = not table["out_of_fold"].null_count
        self._require(CLASSES.path())
        classes = read_json(self._run.path(CLASSES.path()), self._run.stage(DATA.name()).recompute_hint)
        values = rows_of_lists(table["out_of_fold" if folded else "probs"])
        ids = frame_of_table(table.select([ID])).index
        return pd.DataFrame(values, index=ids, columns=pd.Index(classes, dtype="string"))

    def predictions(self, test: str | None = None) -> pd.DataFrame:
        """The label of every test sample, and what each model says of it.

        Args:
            test: the name of an evaluation; None: the only one.
        """
        return self._parquet(PREDICTIONS, test=self._evaluation(test))

    def metrics(self, test: str | None = None) -> pd.DataFrame:
        """The numbers of an evaluation, one row for each model, "warmup" first.

        A number within a group has the column "group.number". Lists, such as the rows of a confusion matrix, are in
        ``metrics.json`` alone.

        Args:
            test: as for ``predictions``.
        """
        path = METRICS.path(test=self._evaluation(test))
        self._require(path)
        found: Any = read_json(self._run.path(path), self._run.stage(stage_of(path)).recompute_hint)
        return frame_of_scores({WARMUP.kind: found["warmup"], **found["reweight"]}, "model")

    def __repr__(self) -> str:
        """What `status` says."""
        try:
            result: Any = status(self._run, SilentReporter()).result
        except MetaSelectError as error:
            return f"{error} {error.hint}"
        bought = "?" if result["bought"] is None else result["bought"]
        width = max(len(row["stage"]) for row in result["stages"])
        lines = [f"{self._run.root}: {bought} labels bought"]
        for row in result["stages"]:
            why = f" ({row['why']})" if row["why"] else ""
            lines.append(f"  {row['stage']:{width}}  {row['state']}{why}")
        if result["take"]:
            lines.append(ModelChoice(**result["take"]).sentence(result["run"]))
        if result["next"]:
            lines.append(f"Next: {result['next']}")
        return "\n".join(lines)

    def _reweighting(self, name: str | None) -> str:
        names = self._names(REWEIGHT)
        if name is None and len(names) > 1:
            result: Any = status(self._run, SilentReporter()).result
            name = result["take"] and result["take"]["model"]
            name = name if name in names else None
        return self._one_of(names, name, "re-weighting")

    def _evaluation(self, test: str | None) -> str:
        return self._one_of(self._names(EVALUATE), test, "evaluation")

    def _names(self, folder: Folder) -> list[str]:
        """Names of the finished stages of a kind, of which there must be one."""
        names = [stage.partition("/")[2] for stage in self._run.stage_names(folder.kind)]
        if not names:
            raise ArtefactError(
                f"{self._run.root} has no {folder.kind}/ yet.",
                f"First run: metaselect {folder.command} {self._run.model_flags}",
            )
        return names

    def _one_of(self, names: list[str], name: str | None, what: str) -> str:
        if name is None and len(names) == 1:
            return names[0]
        if name in names:
            return name
        found = f"{self._run.root} has no {what} {name!r}." if name else f"Which {what} of {self._run.root}?"
        raise UsageError(found, f"Name one of: {', '.join(names)}.")

    def _parquet(self, artefact: Artefact, **parts: str) -> pd.DataFrame:
        return frame_of_table(self._table(artefact, **parts))

    def _table(self, artefact: Artefact, **parts: str) -> Any:
        self._require(artefact.path(**parts))
        return pq.read_table(require_parquet(self._run, artefact, **parts))

    def _require(self, path: str) -> None:
        """Check that a file is the one that its stage wrote, from inputs that are still the same."""
        stage = self._run.stage(stage_of(path))
        stage.verified(path)
        if self._stale_ok:
            return
        state = state_of(self._run, stage.name, AnnotationView.read(self._run))
        if state.state == STALE:
            raise ArtefactError(
                f"{stage.name} is stale: {state.why}.",
                f"First run: {stage.command()}; or read it as it is, with open_run(path, stale_ok=True).",
            )
