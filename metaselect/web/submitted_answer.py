"""What a browser sends as an answer, and what of it is refused."""

from collections.abc import Sequence
from dataclasses import dataclass

from metaselect.annotation.votes import DONE, STATUSES
from metaselect.text import ANNOTATOR_RULE, annotator_form, is_annotator_name


class InvalidRequest(Exception):
    """A request that the page does not make; nothing was written."""


@dataclass(frozen=True)
class SubmittedAnswer:
    """One answer as a browser sends it.

    Attributes:
        key: the sample's position in the round.
        status: "done", "skip", "unsure" or "bad_sample".
        label: position of the class; None unless the status is done.
    """

    key: int
    status: str
    label: int | None

    def class_name(self, classes: Sequence[str]) -> str:
        """The class, empty unless the status is done.

        Raises:
            InvalidRequest: no such status or class.
        """
        if self.status not in STATUSES:
            raise InvalidRequest("There is no such status.")
        if self.status != DONE:
            return ""
        # bool is an int to Python
        known = isinstance(self.label, int) and not isinstance(self.label, bool)
        if not known or not 0 <= (self.label or 0) < len(classes):
            raise InvalidRequest("There is no such class.")
        return classes[self.label or 0]


def valid_annotator(annotator: str) -> str:
    """The name as it stands in votes.

    Raises:
        InvalidRequest: blank, too long, or with characters that cannot be seen.
    """
    name = annotator_form(annotator)
    if not is_annotator_name(name):
        raise InvalidRequest(f"Answers need {ANNOTATOR_RULE}.")
    return name
