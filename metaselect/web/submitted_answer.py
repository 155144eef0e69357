"""What a browser sends as an answer, and what of it is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
        replaces: (status, class name) of the annotator's earlier answer that the page showed beside the sample, which
            this one may replace; None: there is none.
    """

    key: int
    status: str
    label: int | None
    replaces: tuple[str, str] | None = None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "SubmittedAnswer":
        """From the request of a page; the key and the status are checked where they are used.

        Raises:
            InvalidRequest: what it replaces is no answer.
        """
        replaces = body.get("replaces")
        if replaces is not None:
            answer = (replaces.get("status"), replaces.get("label")) if isinstance(replaces, dict) else ()
            if not answer or not all(isinstance(text, str) for text in answer):
                raise InvalidRequest("The answer that this one replaces is none.")
            replaces = answer
        return cls(body.get("key"), body.get("status"), body.get("label"), replaces)  # type: ignore[arg-type]

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
