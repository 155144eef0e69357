"""What a run directory holds, from one table, and where."""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from metaselect.errors import ArtefactError, LockedError, UsageError
from metaselect.records import Json
from metaselect.run.files import read_json, write_json

if TYPE_CHECKING:
    from metaselect.run.stage import Stage

LAYOUT_VERSION = 1
SCHEMA_VERSION = 1
META_SET = "annotate/meta_set.csv"  # the one file of the annotations that training depends on
IDS_ALONE = "external"  # the task of a run without images and features: those come from outside


@dataclass(frozen=True)
class Artefact:
    """One kind of file in a run directory.

    Attributes:
        path: where, below the run; ``<...>`` stands for a name or number.
        content: columns or meaning, for people.
        writer: the command that makes it.
        readers: the stages that depend on it.
    """

    path: str
    content: str
    writer: str
    readers: tuple[str, ...] = ()


ARTEFACTS: tuple[Artefact, ...] = (
    Artefact("run.json", "layout version, task (images, features or external), data fingerprint", "ingest"),
    Artefact(
        "data/samples.parquet",
        "index, sample_id, given_label, content_hash, source",
        "ingest",
        ("warmup", "select", "annotate", "reweight", "evaluate"),
    ),
    Artefact("data/classes.json", "class names; a position is a class number", "ingest", ("every stage",)),
    Artefact("data/preprocess.json", "size, mode, mean, std", "ingest", ("warmup", "reweight", "evaluate")),
    Artefact(
        "data/pixels.npy", "uint8 (n, C, H, W); images only", "ingest", ("warmup", "select", "reweight")
    ),
    Artefact(
        "data/features.npy", "float32 (n, d); features only", "ingest", ("warmup", "select", "reweight")
    ),
    Artefact("data/skipped.csv", "source, row, sample_id, reason; bad samples that were left out", "ingest"),
    Artefact("data/duplicates.csv", "content_hash, sample_id; samples that share their content", "ingest"),
    Artefact("warmup/history.csv", "epoch, lr, loss, accuracy, held_out_loss, held_out_accuracy", "warmup"),
    Artefact(
        "warmup/checkpoints/epoch-<number>.safetensors",
        "the model after that epoch",
        "warmup",
        ("select", "reweight", "evaluate"),
    ),
    Artefact(
        "warmup/model.json",
        "architecture, classes, preprocessing, the checkpoint to go on from",
        "warmup",
        ("select", "reweight", "evaluate"),
    ),
    Artefact(
        "select/round-<number>/gradients-epoch-<number>.parquet",
        "sample_id, probs, hidden (the two factors of each gradient); of gbc: norm, direction",
        "select",
    ),
    Artefact(
        "select/round-<number>/selected.csv",
        "sample_id, rank, cluster, cluster_size, cluster_mass, similarity, control",
        "select",
        ("annotate", "evaluate"),
    ),
    Artefact(
        "select/round-<number>/clusters.parquet",
        "sample_id, cluster, similarity, rank (of every pool sample)",
        "select",
    ),
    Artefact(
        "annotate/votes.csv",
        "sample_id, clean_label, annotator, status, note, round, time; append only",
        "annotate",
    ),
    Artefact(
        "annotate/meta_set.csv",
        "sample_id, clean_label (empty: unusable)",
        "annotate",
        ("reweight", "evaluate"),
    ),
    Artefact(
        "annotate/exports.csv",
        "time, round, batch_id, format, file, samples, classes_sha256",
        "annotate",
    ),
    Artefact(
        "annotate/batches/<batch_id>.csv",
        "sample_id, name, content_hash; the round as it first went out",
        "annotate",
    ),
    Artefact("annotate/repeats.csv", "repeat_id, sample_id, batch_id (what a form showed twice)", "annotate"),
    Artefact("annotate/consensus.json", "method (majority where there is no such file)", "annotate"),
    Artefact(
        "annotate/imports.csv",
        "import, time, file, sha256, format, first_vote, undoes (an import)",
        "annotate",
    ),
    Artefact(
        "reweight/<name>/history.csv",
        "epoch, lr, loss, accuracy, mean_weight, zero_batches, bought_loss, bought_accuracy",
        "reweight",
    ),
    Artefact("reweight/<name>/model.safetensors", "the robust model", "reweight", ("evaluate",)),
    Artefact("reweight/<name>/model.json", "architecture, classes, preprocessing", "reweight", ("evaluate",)),
    Artefact(
        "reweight/<name>/weights.parquet",
        "sample_id, given_label, weight, weight_kind, bought, predicted_label, predicted_prob, label_issue_rank",
        "reweight",
        ("evaluate",),
    ),
    Artefact("evaluate/<test>/metrics.json", "every number that evaluate knows", "evaluate"),
    Artefact(
        "evaluate/<test>/predictions.parquet",
        "sample_id, label, predicted_<model> (one a model)",
        "evaluate",
    ),
    Artefact(
        "evaluate/<test>/skipped.csv",
        "source, row, sample_id, reason; bad samples that were left out",
        "evaluate",
    ),
    Artefact("<stage>/stage.json", "options, seed, versions, device, time, memory, hashes", "every stage"),
)


@dataclass(frozen=True)
class Run:
    """A run directory."""

    root: Path

    @classmethod
    def at(cls, root: Path | None) -> "Run":
        """The run at ``root``; whether anything is there yet is the stages' question.

        Raises:
            UsageError: ``root`` is None, a file, or nothing that could be a folder.
        """
        if root is None:
            raise UsageError("No run directory was named.", "Give --run RUN, or set METASELECT_RUN.")
        try:
            is_file = root.is_file()
        except OSError as error:  # such as a name that is too long
            raise UsageError(f"--run {root}: {error.strerror}.", "Name another folder.") from None
        if is_file:
            raise UsageError(f"--run {root} is a file.", "Name a folder, new or made by metaselect ingest.")
        return cls(root)

    @property
    def flag(self) -> str:
        """``--run`` as a command in a message gives it, fit to be pasted into a shell."""
        return f"--run {shlex.quote(str(self.root))}"

    def path(self, relative: str) -> Path:
        """The absolute place of a path below the run."""
        return self.root / relative

    def stage(self, name: str) -> "Stage":
        """A stage's folder: "data", "warmup", "select/round-1", "annotate", "reweight/<name>", ..."""
        from metaselect.run.stage import Stage

        return Stage(self, name)

    @property
    def ids_alone(self) -> bool:
        """Whether it holds ids and labels alone, so that nothing can be trained in it."""
        return bool(self.info()["task"] == IDS_ALONE)

    @property
    def select_command(self) -> str:
        """The command that chooses the first samples here, as a message gives it."""
        features = "--features FILE " if self.ids_alone else ""
        return f"metaselect select --budget 50 {features}{self.flag}"

    @property
    def exists(self) -> bool:
        """Whether data was ever ingested here."""
        return self.path("data/stage.json").is_file()

    def info(self) -> dict[str, Any]:
        """``run.json``.

        Raises:
            ArtefactError: no run here, or one of another layout version.
        """
        if not self.exists:
            raise ArtefactError(
                f"There is no run at {self.root}.", f"Make one: metaselect ingest DATA {self.flag}"
            )
        remedy = f"Make it anew: metaselect ingest DATA --force {self.flag}"
        info: dict[str, Any] = read_json(self.path("run.json"), remedy)
        if not isinstance(info, dict) or not {"layout_version", "task", "fingerprint"} <= info.keys():
            raise ArtefactError(f"{self.path('run.json')} is damaged: it lacks a key.", remedy)
        if info.get("layout_version") != LAYOUT_VERSION:
            raise ArtefactError(
                f"{self.path('run.json')} has layout version {info.get('layout_version')}, "
                f"this program reads {LAYOUT_VERSION}.",
                "Use the version of MetaSelect that made the run, or start a new run.",
            )
        return info

    def write_info(self, task: str, fingerprint: str) -> None:
        """Write ``run.json``, unless it says so already."""
        path = self.path("run.json")
        info: dict[str, Json] = {
            "layout_version": LAYOUT_VERSION,
            "task": task,
            "fingerprint": fingerprint,
        }
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = None
        if known != info:
            write_json(path, info)

    def stage_names(self, kind: str) -> list[str]:
        """Names of the finished stages of a kind ("select", "reweight", "evaluate"), in natural order."""
        folder = self.path(kind)
        if not folder.is_dir():
            return []
        names = [entry.name for entry in folder.iterdir() if (entry / "stage.json").is_file()]
        return [f"{kind}/{name}" for name in sorted(names, key=lambda name: (len(name), name))]

    @contextmanager
    def lock(self, *, new: bool = False) -> Iterator[None]:
        """Keep every other writing command out of this run.

        Args:
            new: make the folder where there is none; else a mistyped --run leaves nothing behind.

        Raises:
            LockedError: another command holds it.
            ArtefactError: there is no run.
            UsageError: there can be no folder at that place.
        """
        if not new:
            self.info()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except (NotADirectoryError, FileExistsError, FileNotFoundError) as error:
            raise UsageError(f"{self.flag}: {error.strerror}.", "Name another folder.") from None
        lock = FileLock(self.root / ".lock", is_singleton=True)  # so that stages may nest
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise LockedError(
                f"Another metaselect command is working in {self.root}.",
                "Wait for it to end, then try again.",
            ) from None
        try:
            yield
        finally:
            lock.release()


def checked_folder_name(name: str) -> str:
    """The name, if it is fit for a folder.

    Raises:
        UsageError: anything but letters, digits, ``.``, ``_`` and ``-``, or a leading dot.
    """
    taken = name == "warmup" or name.endswith(".old")  # the warm-up's own name, and what a rename leaves
    if taken or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name):
        raise UsageError(
            f"--name {name!r} is not fit for a folder.", "Use letters, digits, '.', '_' and '-'."
        )
    return name
