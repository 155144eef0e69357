"""Finds the sample of an answer: by sample_id, then by the exported image's name, then by content hash."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from metaselect.annotation.exports import ExportedSample
from metaselect.annotation.formats.base import Answer
from metaselect.annotation.matching.labels import Spellings
from metaselect.annotation.matching.spreadsheet_damage import SpreadsheetDamage
from metaselect.annotation.rounds import Round


@dataclass(frozen=True)
class ImportScope:
    """Everything that answers can refer to.

    Attributes:
        rounds: those that the import is about.
        pool_ids: gives all ids; called only when a file has ids that no round has.
        classes: K names.
        batches: every batch of the run; None accepts all.
        exported: the samples of all exports.
        changed: samples whose content differs from when they were exported.
    """

    rounds: Sequence[Round]
    pool_ids: Callable[[], Collection[str]]
    classes: Sequence[str]
    batches: Collection[str] | None = None
    exported: Sequence[ExportedSample] = ()
    changed: Collection[str] = frozenset()


@dataclass
class Unmatched:
    """Answers of a file that cannot be taken, and those that were not found by their id.

    Attributes:
        unknown: ids (or, without ids, names) that are not in the pool.
        not_selected: ids of the pool that are in none of the rounds, where only those count.
        mismatched: ids whose row names the image or the content of another sample.
        changed: ids whose content differs from when they were exported.
        other_batches: batch_id -> rows that belong to it, of batches that the run does not have.
        by_name: ids that were found by the name of their image.
        by_content_hash: ids that were found by their content hash.
        replaced_ids: unknown ids in rows that were found by name or content.
    """

    unknown: set[str] = field(default_factory=set)
    not_selected: set[str] = field(default_factory=set)
    mismatched: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    other_batches: Counter[str] = field(default_factory=Counter)
    by_name: set[str] = field(default_factory=set)
    by_content_hash: set[str] = field(default_factory=set)
    replaced_ids: set[str] = field(default_factory=set)


class AnswerMatcher:
    """Finds the sample and round of an answer; collects in ``unmatched`` the answers that have none."""

    def __init__(
        self, scope: ImportScope, spellings: Spellings, answers: Iterable[Answer], *, outside: bool
    ) -> None:
        self.scope, self.spellings, self.answers, self.outside = scope, spellings, answers, outside
        self.unmatched = Unmatched()
        self.rounds = {each.batch_id: each for each in scope.rounds}
        self.latest = {sample_id: each.number for each in scope.rounds for sample_id in each.samples}

    def match(self, answer: Answer) -> tuple[str | None, int]:
        """The sample's id and its round, 0 outside of all; None when the answer cannot be taken."""
        # The order of the checks decides what is reported of an answer with several problems.
        batch_id = answer.batch_id.strip()
        if batch_id and self.scope.batches is not None and batch_id not in self.scope.batches:
            self.unmatched.other_batches[batch_id] += 1
            return None, 0
        sample_id = self._sample_id(answer)
        if sample_id is None:
            self.unmatched.unknown.add(answer.sample_id.strip() or answer.image or answer.content_hash)
            return None, 0
        if (answer.image or answer.content_hash) and self._names_another_sample(answer, sample_id):
            self.unmatched.mismatched.add(sample_id)
            return None, 0
        if sample_id in self.scope.changed:
            self.unmatched.changed.add(sample_id)
            return None, 0
        if sample_id in self.latest:
            # A sample selected in several rounds: the round of the form, or the latest where the form names none.
            batch = self.rounds.get(batch_id)
            inside = batch is not None and sample_id in batch.samples
            return sample_id, batch.number if batch and inside else self.latest[sample_id]
        if not self.outside:
            self.unmatched.not_selected.add(sample_id)
            return None, 0
        return sample_id, 0

    def likely_ids(self) -> dict[str, str]:
        """Unknown id -> the id that a spreadsheet may have changed into it, of those that the import takes."""
        ids = {*self.latest, *(self.scope.pool_ids() if self.outside else ())}
        damaged = SpreadsheetDamage(ids)
        found = {each: damaged.likely_id(each) for each in sorted(self.unmatched.unknown)}
        return {each: sample_id for each, sample_id in found.items() if sample_id is not None}

    def _sample_id(self, answer: Answer) -> str | None:
        if answer.sample_id.strip():
            # All spellings are tried among the selected samples before any is tried in the pool: the file is about
            # the former, and reading the pool's ids takes time.
            for spelling in self.spellings(answer.sample_id):
                if spelling in self.latest:
                    return spelling
            pool = self.scope.pool_ids()
            for spelling in self.spellings(answer.sample_id):
                if spelling in pool:
                    return spelling
        matched = self._sample_of_image(answer.image) if answer.image else None
        if matched is not None:
            self.unmatched.by_name.add(matched)
        elif answer.content_hash in self._ids_by_hash:
            matched = self._ids_by_hash[answer.content_hash]
            self.unmatched.by_content_hash.add(matched)
        if matched is not None and answer.sample_id.strip():
            self.unmatched.replaced_ids.add(answer.sample_id.strip())
        return matched

    def _names_another_sample(self, answer: Answer, sample_id: str) -> bool:
        """Whether the row's image or content is known to be another sample's; what never went out says nothing."""
        named = self._sample_of_image(answer.image) if answer.image else None
        if named is not None and named != sample_id:
            return True
        held = self._hash_by_id.get(sample_id)  # None: the sample was never exported
        return bool(answer.content_hash) and held is not None and held != answer.content_hash

    def _sample_of_image(self, image: str) -> str | None:
        """The sample that was exported under that name, in any folder and with any extension.

        None where the file has that name in several folders.
        """
        for spelling in self.spellings(image):
            stem = _stem(spelling)
            if stem in self._ids_by_name and self._paths_by_name[stem] < 2:
                return self._ids_by_name[stem]
        return None

    @cached_property
    def _ids_by_name(self) -> Mapping[str, str]:
        return _unambiguous((each.name.casefold(), each.sample_id) for each in self.scope.exported)

    @cached_property
    def _ids_by_hash(self) -> Mapping[str, str]:
        return _unambiguous((each.content_hash, each.sample_id) for each in self.scope.exported)

    @cached_property
    def _hash_by_id(self) -> Mapping[str, str]:
        return {each.sample_id: each.content_hash for each in self.scope.exported}

    @cached_property
    def _paths_by_name(self) -> Counter[str]:
        """The number of paths in the file that end with each name."""
        images = {answer.image for answer in self.answers}
        paths = {next(iter(self.spellings(image))).strip() for image in images if image}
        return Counter(_stem(path) for path in paths)


def _stem(path: str) -> str:
    """The file's name without folder and extension, in one case."""
    name = path.strip().replace("\\", "/").rpartition("/")[2]
    return (name.rpartition(".")[0] or name).casefold()  # tools change extensions, file systems the case


def _unambiguous(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The keys that have a single value, and that value."""
    first: dict[str, str] = {}
    ambiguous = set()
    for key, value in pairs:
        if first.setdefault(key, value) != value:
            ambiguous.add(key)
    return {key: value for key, value in first.items() if key and key not in ambiguous}
