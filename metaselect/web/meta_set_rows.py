"""The rows of ``meta_set.csv``, kept sorted in blocks, so that one changed row rewrites one block and not the file."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping

from metaselect.annotation.consensus import Verdict, meta_set_text
from metaselect.annotation.votes import BAD_SAMPLE, DONE
from metaselect.run.artefacts import META_SET
from metaselect.run.tables import format_rows

BLOCK = 1024  # rows of a new block; one that grows to more than twice as many is split in two


class MetaSetRows:
    """The samples that have a row, and the text of each block of rows.

    ``parts`` joined is ``meta_set_text`` of the same verdicts.
    """

    def __init__(self, verdicts: Mapping[str, Verdict]) -> None:
        """From the verdicts by sample_id."""
        self._label = {each: verdict.clean_label for each, verdict in verdicts.items() if _has_row(verdict)}
        ids = sorted(self._label)
        self._blocks = [ids[start : start + BLOCK] for start in range(0, len(ids), BLOCK)] or [[]]
        self._first_ids = [block[0] if block else "" for block in self._blocks]
        self._texts: list[bytes | None] = [None] * len(self._blocks)  # None: changed since it was made

    def set(self, sample_id: str, verdict: Verdict | None) -> None:
        """Put, replace or remove the row of a sample; None where it has no vote any more."""
        number = max(bisect_right(self._first_ids, sample_id) - 1, 0)
        block = self._blocks[number]
        place = bisect_left(block, sample_id)
        is_there = place < len(block) and block[place] == sample_id
        if verdict is not None and _has_row(verdict):
            self._label[sample_id] = verdict.clean_label
            if not is_there:
                block.insert(place, sample_id)
        elif is_there:
            del block[place], self._label[sample_id]
        self._texts[number] = None
        if len(block) > 2 * BLOCK:
            self._split(number)
        elif block or len(self._blocks) == 1:
            self._first_ids[number] = block[0] if block else ""
        else:
            del self._blocks[number], self._first_ids[number], self._texts[number]

    def parts(self) -> list[bytes]:
        """The file's bytes: the header, then each block; only changed blocks are made again."""
        for number, text in enumerate(self._texts):
            if text is None:
                rows = ((each, self._label[each]) for each in self._blocks[number])
                self._texts[number] = format_rows(META_SET, rows).split("\n", 1)[1].encode()
        return [meta_set_text({}).encode(), *(text for text in self._texts if text is not None)]

    def _split(self, number: int) -> None:
        block = self._blocks[number]
        halves = [block[:BLOCK], block[BLOCK:]]
        self._blocks[number : number + 1] = halves
        self._first_ids[number : number + 1] = [half[0] for half in halves]
        self._texts[number : number + 1] = [None, None]


def _has_row(verdict: Verdict) -> bool:
    return verdict.status in (DONE, BAD_SAMPLE)
