"""The run directory: its ``run.json``, its stages, and the lock that lets one command write at a time."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from metaselect import __version__, ranks
from metaselect.errors import ArtefactError, LockedError, UsageError
from metaselect.records import Json
from metaselect.registry import REWEIGHTERS, names_code
from metaselect.run.artefacts import (
    DATA,
    LAYOUT_VERSION,
    RECORD,
    RUN_INFO,
    WARMUP,
    WARMUP_MODEL,
)
from metaselect.run.files import parse_json, write_json
from metaselect.run.memo import FileMemo
from metaselect.run.stage import Stage, run_flag
from metaselect.run.unfinished import LOCK

IMAGES, FEATURES = "images", "features"  # what the samples of a run have; some have both
IDS_ALONE = "external"  # the task of a run of ids and labels alone: features come from --features


_read_info = FileMemo(parse_json)


@dataclass(frozen=True)
class Run:
    """A run directory; nothing needs to exist there yet.

    Attributes:
        root: its path.
        trusts: names ``package.module:factory`` of models whose code may run, though only a file of the run names
            them; None: any.
    """

    root: Path
    trusts: frozenset[str] | None = frozenset()

    @classmethod
    def at(cls, root: Path | None, *, trust_model: bool = False, model: str | None = None) -> "Run":
        """The run at ``root``, which may be empty or missing.

        Args:
            root: its path.
            trust_model: of --trust-model: code that the run's files name may run.
            model: of --model, which may run.

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
        return cls(root, None if trust_model else frozenset([model] if model else []))

    @property
    def flag(self) -> str:
        """The flag ``--run`` for commands in messages, quoted for a shell."""
        return run_flag(self.root)

    def path(self, relative: str) -> Path:
        """The path of a file, given its path below the run."""
        return self.root / relative

    def stage(self, name: str) -> Stage:
        """The stage of that name: "data", "warmup", "select/round-1", "annotate", "reweight/<name>", ..."""
        return Stage(self.root, name)

    @property
    def ids_alone(self) -> bool:
        """Whether the run holds ids and labels alone, so that no model can be trained in it."""
        return bool(self.info()["task"] == IDS_ALONE)

    def trusts_model(self, model: str) -> bool:
        """Whether a model that a file of the run names may be built: it is no code, or the command line said so."""
        return not names_code(model) or self.trusts is None or model in self.trusts

    def require_trust(self, model: str) -> None:
        """Check that a model which a file of the run names may be built.

        Raises:
            UsageError: it is somebody's code, ``package.module:factory``, and the command line did not name it.
        """
        if not self.trusts_model(model):
            raise UsageError(
                f"{self.root} names the model {model}, which is code that this command would run.",
                "Add --trust-model if you trust whoever made the run, and the code under that name.",
            )

    @property
    def model_flags(self) -> str:
        """``flag``, for commands that load the warm-up's model: with --trust-model where that is somebody's code."""
        try:
            described = parse_json(self.path(WARMUP_MODEL.path()))
            is_code = names_code(described["architecture"])
        except (OSError, ValueError, LookupError, TypeError):
            is_code = False  # the command that loads it says what is wrong
        return f"--trust-model {self.flag}" if is_code else self.flag

    @property
    def has_warmup(self) -> bool:
        """Whether the warm-up was finished."""
        return self.path(f"{WARMUP.name()}/{RECORD}").is_file()

    @property
    def selecting_command(self) -> str:
        """The next command on the way to a first selection, for messages: `warmup`, then `select`."""
        if not self.ids_alone and not self.has_warmup:
            return f"metaselect {WARMUP.command} {self.flag}"
        features = "--features FILE " if self.ids_alone else ""
        return f"metaselect select --budget 50 {features}{self.model_flags}"

    @property
    def exists(self) -> bool:
        """Whether data was ingested."""
        return self.path(f"{DATA.name()}/{RECORD}").is_file()

    @property
    def is_described(self) -> bool:
        """Whether there is a ``run.json``."""
        return self.path(RUN_INFO.path()).is_file()

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
        path = self.path(RUN_INFO.path())
        try:
            info: dict[str, Any] = _read_info(path)
        except FileNotFoundError:
            raise ArtefactError(
                f"{path} is missing.", f"Write it again: metaselect ingest DATA {self.flag}"
            ) from None
        except ValueError as error:  # of json, or of bytes that are not UTF-8
            raise ArtefactError(f"{path} is damaged: {error}.", remedy) from None
        if not isinstance(info, dict) or not {"layout_version", "task", "fingerprint"} <= info.keys():
            raise ArtefactError(f"{path} is damaged: it lacks a key.", remedy)
        if info.get("layout_version") != LAYOUT_VERSION:
            made = f" of MetaSelect {info['metaselect']}" if "metaselect" in info else ""
            raise ArtefactError(
                f"{path} has layout version {info.get('layout_version')}{made}, "
                f"this program, {__version__}, reads {LAYOUT_VERSION}.",
                "Use the version of MetaSelect that made the run, or start a new run.",
            )
        return info

    def write_info(self, task: str, fingerprint: str) -> None:
        """Write ``run.json``, unless it has these contents already; it names the version that wrote it.

        Args:
            task: "images", "features" or "external" (ids and labels alone).
            fingerprint: of the data.
        """
        path = self.path(RUN_INFO.path())
        info: dict[str, Json] = {
            "layout_version": LAYOUT_VERSION,
            "task": task,
            "fingerprint": fingerprint,
        }
        try:
            known = parse_json(path)
        except (OSError, ValueError):
            known = None
        if not isinstance(known, dict) or not info.items() <= known.items():
            write_json(path, {**info, "metaselect": __version__})

    def stage_names(self, kind: str) -> list[str]:
        """Names of the finished stages of a kind ("select", "reweight", "evaluate").

        Trainings that bear the name of their method come in the order of the registry; others are sorted with their
        numbers as numbers, round-2 before round-10.
        """
        folder = self.path(kind)
        if not folder.is_dir():
            return []
        names = [entry.name for entry in folder.iterdir() if (entry / RECORD).is_file()]
        return [f"{kind}/{name}" for name in sorted(names, key=_place)]

    @contextmanager
    def lock(self, *, new: bool = False) -> Iterator[None]:
        """A context in which no other command can write to this run.

        Args:
            new: create the folder if it is missing. Else it must be a run, so that a mistyped --run creates nothing.

        Raises:
            LockedError: another command holds it.
            ArtefactError: there is no run.
            UsageError: the folder cannot be created.
        """
        if not new:
            self.info()
        if not ranks.is_first():  # the first one holds it for all
            ranks.barrier()
            yield
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except (NotADirectoryError, FileExistsError, FileNotFoundError) as error:
            raise UsageError(f"{self.flag}: {error.strerror}.", "Name another folder.") from None
        lock = FileLock(self.root / LOCK, is_singleton=True)  # so that stages may nest
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise LockedError(
                f"Another metaselect command is working in {self.root}.",
                "Wait for it to end, then try again.",
            ) from None
        try:
            ranks.barrier()
            yield
        finally:
            lock.release()


def checked_folder_name(name: str) -> str:
    """The name, if it can name a folder on every system.

    Raises:
        UsageError: anything but letters, digits, ``.``, ``_`` and ``-``, or a leading dot.
    """
    # The warm-up has this name among the models of an evaluation; a retired folder ends with .old for a moment.
    taken = name == WARMUP.name() or name.endswith(".old")
    if taken or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name):
        raise UsageError(
            f"--name {name!r} is not fit for a folder.", "Use letters, digits, '.', '_' and '-'."
        )
    return name


def _place(name: str) -> tuple[int, list[tuple[int, str]]]:
    """A sort key of the names of stages of one kind."""
    methods = list(REWEIGHTERS)
    parts = [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]
    return methods.index(name) if name in methods else len(methods), parts
