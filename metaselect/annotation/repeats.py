"""Blind repeats: a form shows a few samples twice, to measure how often an annotator gives the same answer again.

The second time a sample has another id, made of characters of other ids, so that people cannot recognise it.
``annotate/repeats.csv`` maps it to the sample. Its answers are votes for the second id. They show the agreement of
annotators with themselves, and count for the sample as long as the annotator has given no answer to its first showing.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

from metaselect.annotation.formats.base import Item
from metaselect.annotation.votes import RESTORE_REMEDY, Vote
from metaselect.random import derive_seed
from metaselect.run.artefacts import REPEATS
from metaselect.run.tables import read_rows, write_rows

STREAM = "repeats"
TRIES = 50  # ids of one length before a longer one is tried


class Repeat(NamedTuple):
    """A row of ``repeats.csv``: the second id of a sample, and the batch that shows it."""

    repeat_id: str
    sample_id: str
    batch_id: str


def read_repeats(path: Path) -> tuple[Repeat, ...]:
    """The rows; none where there is no file.

    Raises:
        ArtefactError: a row that is not a repeat.
    """
    return read_rows(path, REPEATS, Repeat, RESTORE_REMEDY)


def write_repeats(path: Path, repeats: Sequence[Repeat]) -> None:
    """Write all rows; earlier ones stay as they are."""
    write_rows(path, REPEATS, repeats)


def counting_votes(
    latest: Mapping[tuple[str, str], Vote], sample_of_repeat: Mapping[str, str]
) -> dict[tuple[str, str], Vote]:
    """The votes that count, by sample and annotator: for samples, and where somebody has none, for their repeats.

    Args:
        latest: by (id that the form showed, annotator).
        sample_of_repeat: the sample of each repeat.
    """
    if not sample_of_repeat:
        return dict(latest)
    counting = {key: vote for key, vote in latest.items() if key[0] not in sample_of_repeat}
    for repeat_id, annotator in sorted(
        latest.keys() - counting.keys()
    ):  # of several repeats, the first by id
        sample_id = sample_of_repeat[repeat_id]
        vote = latest[repeat_id, annotator]
        counting.setdefault((sample_id, annotator), vote._replace(sample_id=sample_id))
    return counting


def choose_repeats(
    ids: Sequence[str], share: float, batch_id: str, pool: Collection[str], known: Sequence[Repeat]
) -> list[Repeat]:
    """The samples of a form that it shows twice: a seeded choice from its first half.

    Args:
        ids: of the form, in its order.
        share: of them, in (0, 0.5]; at least one is repeated where there are two.
        batch_id: of the form.
        pool: all ids, none of which a repeat may have.
        known: earlier repeats; a sample keeps its second id within a batch.
    """
    # A repeat is shown in the second half, so that other samples stand between it and the first showing.
    half = list(ids[: len(ids) // 2])
    chosen = sorted(half, key=lambda each: derive_seed(0, STREAM, batch_id, each))
    chosen = chosen[: max(round(share * len(ids)), 1)]  # nested: a larger share adds samples
    before = {(each.sample_id, each.batch_id): each for each in known}
    # In one case: exported images are named by id, and file systems may ignore case.
    taken = {each.casefold() for each in (*pool, *(each.repeat_id for each in known))}
    similar: dict[int, list[str]] = {}  # length -> ids
    for each in sorted(pool):
        similar.setdefault(len(each), []).append(each)
    repeats = []
    for sample_id in chosen:
        repeat = before.get((sample_id, batch_id))
        if repeat is None:
            names = _candidate_ids(similar[len(sample_id)], batch_id, sample_id)
            repeat_id = next(name for name in names if name.casefold() not in taken)
            taken.add(repeat_id.casefold())
            repeat = Repeat(repeat_id, sample_id, batch_id)
        repeats.append(repeat)
    return repeats


def insert_repeats(
    items: Sequence[Item], repeats: Sequence[Repeat], image_of: Callable[[str, str], str]
) -> list[Item]:
    """The items with the repeats inserted among those of the second half, ranked anew so that ranks show nothing.

    Args:
        items: of the form, in its order.
        repeats: of ``choose_repeats``.
        image_of: copies an image under the name of an id and returns the path relative to the form; called where there
            are images.
    """
    if not repeats:
        return list(items)
    half = len(items) // 2
    by_id = {item.sample_id: item for item in items}
    inserted_after: dict[int, list[Item]] = {}
    for repeat in sorted(repeats, key=lambda each: derive_seed(0, STREAM, "order", *each)):
        place = half + derive_seed(0, STREAM, "place", *repeat) % (len(items) - half)
        item = by_id[repeat.sample_id]
        image = image_of(item.image, repeat.repeat_id) if item.image else ""
        digest = repeat_content_hash(item.content_hash, repeat.repeat_id)
        shown = item._replace(sample_id=repeat.repeat_id, image=image, content_hash=digest)
        inserted_after.setdefault(place, []).append(shown)
    with_repeats = [
        each for place, item in enumerate(items) for each in (item, *inserted_after.get(place, ()))
    ]
    return [item._replace(rank=str(rank)) for rank, item in enumerate(with_repeats, start=1)]


def repeat_content_hash(content_hash: str, repeat_id: str) -> str:
    """A hash in place of the content hash of a repeat: the same hash twice in a form would show the repeat."""
    return content_hash and hashlib.sha256(f"{content_hash}/{repeat_id}".encode()).hexdigest()


def _candidate_ids(similar: Sequence[str], batch_id: str, sample_id: str) -> Iterator[str]:
    """Ids that look like the given ones: each character is one of theirs at that position; longer after ``TRIES``."""
    for attempt in count():
        letters = [
            similar[derive_seed(0, STREAM, batch_id, sample_id, attempt, place) % len(similar)][
                place % len(sample_id)
            ]
            for place in range(len(sample_id) + attempt // TRIES)
        ]
        # Spreadsheets may drop space and apostrophes at the ends of a cell.
        yield "".join(letter if letter.strip() and letter != "'" else "0" for letter in letters)
