"""FiftyOne: ``labels.json`` of a FiftyOneImageClassificationDataset.

It has the classes, and under the name of each image without its extension a class, the position of one, an object with
either and more, or null.
"""

from typing import Any

from metaselect.annotation.formats.base import Answer, plain_spellings
from metaselect.annotation.formats.json_text import parse_json
from metaselect.errors import DataError

REMEDY = "Export the labels that people gave as a FiftyOneImageClassificationDataset."


class FiftyOneFormat:
    """Labels by the name of the image."""

    spellings = staticmethod(plain_spellings)

    def read(self, content: bytes, name: str) -> list[Answer]:
        """One answer per label; a blank one for an image without.

        Raises:
            DataError: not such a file, or labels that are no classes of whole images, or a model's.
        """
        found = parse_json(content)
        if not _is_export(found):
            raise DataError(f"{name} is not a labels.json of FiftyOne.", REMEDY)
        classes = found["classes"] or []
        answers: list[Answer] = []
        for row, (image, target) in enumerate(found["labels"].items(), start=1):
            targets = target if isinstance(target, list) else [target]
            for each in targets or [None]:
                label = _label(each, classes, f"{name}:{row}")
                # The dot ends the name as an extension would: what stands behind another one is no extension.
                answers.append(Answer(row, "", label, "", "", "", "", f"{image}."))
        return answers

    def recognises(self, content: bytes) -> bool:
        """By its two keys."""
        return b'"labels"' in content and _is_export(parse_json(content))


def _is_export(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and found.keys() == {"classes", "labels"}
        and isinstance(found["labels"], dict)
        and isinstance(found["classes"], list | None)
    )


def _label(target: Any, classes: list[Any], place: str) -> str:
    """The class that a target names; empty for none."""
    if isinstance(target, dict):
        if "bounding_box" in target:
            raise DataError(f"{place} holds boxes, not a class of the whole image.", REMEDY)
        if target.get("confidence") is not None:
            raise DataError(f"{place} holds a confidence: the label is a model's.", REMEDY)
        target = target.get("label")
    if target is None:
        return ""
    if isinstance(target, str):
        return target
    if isinstance(target, int) and not isinstance(target, bool) and 0 <= target < len(classes):
        return str(classes[target])
    raise DataError(f"{place}: {target!r:.100} is no class of the {len(classes)} in the file.", REMEDY)
