"""Class names: their order, and the names that a Parquet schema declares."""

import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from unicodedata import category, normalize

from metaselect.errors import DataError, UsageError
from metaselect.text import CONTROLS, examples, quoted, short

INTEGER = re.compile(r"-?[0-9]+")  # names that sort as numbers: "9" before "10"
WHOLE = re.compile(r"\+?(-?[0-9]+)\.0+|\+([0-9]+)")
NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]*)?([eE][+-]?[0-9]{1,6})?")
MISSING = frozenset(
    ("nan", "NaN", "NAN", "NaT", "None", "NULL", "Null", "null", "NA", "<NA>", "N/A", "n/a", "#N/A")
)
"""What programs write where a value is missing; "none" is not among it, which people write for a class."""
FILLERS = ("-1", "-100")
"""Numbers that stand for no label beside the classes 0 to K-1; the second is PyTorch's ignore_index."""


def class_form(name: str) -> str:
    """The one form of a class name: no outer spaces, letters composed (NFC), a whole number without + and decimals."""
    text = normalize("NFC", name.strip())
    whole = WHOLE.fullmatch(text)
    return canonical_integer(whole[1] or whole[2]) if whole else text


def canonical_integer(digits: str) -> str:
    """Decimal digits without leading zeros, and without a sign of zero; int() would refuse 4,301 of them."""
    magnitude = digits.removeprefix("-").lstrip("0")
    sign = "-" if digits.startswith("-") and magnitude else ""
    return f"{sign}{magnitude or '0'}"


def name_remarks(names: Sequence[str]) -> list[str]:
    """Warnings about class names that may not be what was meant."""
    remarks = []
    for fault, groups in (
        ("differ in case only", case_variants(names)),
        ("look the same", look_alikes(names)),
    ):
        if groups:
            shown = examples([" and ".join(map(quoted, group)) for group in groups])
            remarks.append(f"Classes {fault}, and are kept apart: {shown}.")
    if hidden := [name for name in names if CONTROLS.search(name)]:
        remarks.append(
            f"Names of classes hold control characters, which people cannot type and some files cannot hold: "
            f"{examples(hidden)}. Rename them before you annotate."
        )
    negative = [name for name in names if INTEGER.fullmatch(name) and name.startswith("-")]
    if len(negative) == 1 and negative[0] in FILLERS and set(names) != {"-1", "1"}:
        remarks.append(
            f"{negative[0]} is a class like the others. Where it stands for no label, leave these cells empty."
        )
    return remarks


def case_variants(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that differ in case only, each group sorted."""
    return _alike(names, str.casefold)


def look_alikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that are one number, or that differ in invisible characters or in forms of one letter; groups sorted."""
    return _alike(names, _look)


def _look(name: str) -> object:
    if NUMBER.fullmatch(name):
        return Decimal(name.replace(",", "."))  # exact, with no limit of digits
    return " ".join(normalize("NFKC", "".join(mark for mark in name if category(mark) != "Cf")).split())


def _alike(names: Iterable[str], key: Callable[[str], object]) -> list[tuple[str, ...]]:
    groups: dict[object, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(key(name), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct names: as integers if all are integers, else by code point.

    Raises:
        DataError: two names are the same integer ("01" beside "1").
    """
    distinct = sorted(set(names))
    check_integers(distinct)
    if all(INTEGER.fullmatch(name) for name in distinct):
        return tuple(sorted(distinct, key=_by_value))
    return tuple(distinct)


def named_classes(value: str | None) -> tuple[str, ...]:
    """The classes that --classes names: a list with commas, or a file with a name on each line; none without it.

    Raises:
        UsageError: fewer than 2, or a name twice.
        DataError: the file is not text in UTF-8, or two names are the same integer.
    """
    if value is None:
        return ()
    try:
        # Not Path.is_file, which raises OSError for a list that is longer than a file's name may be.
        names = Path(value).read_text("utf-8-sig").splitlines() if os.path.isfile(value) else None
    except UnicodeDecodeError:
        raise DataError(f"{value} is not text in UTF-8.", "Save it as UTF-8.") from None
    forms = [class_form(name) for name in (value.split(",") if names is None else names)]
    classes = tuple(form for form in forms if form)
    repeated = sorted(name for name, count in Counter(classes).items() if count > 1)
    if repeated or len(classes) < 2:
        fault = f"names {quoted(repeated[0])} twice" if repeated else "names fewer than 2 classes"
        raise UsageError(
            f"--classes {short(value)} {fault}.", "Give all classes, with commas between them, or a file."
        )
    check_integers(classes)
    return classes


def _by_value(name: str) -> tuple[bool, int, str]:
    """A sort key of the digits of integers that gives their order as numbers."""
    value = canonical_integer(name)
    if not value.startswith("-"):
        return True, len(value), value
    flipped = "".join(str(9 - int(digit)) for digit in value[1:])  # the larger, the earlier
    return False, -len(value), flipped


def check_integers(names: Sequence[str]) -> None:
    """Check that no two names are the same integer.

    Raises:
        DataError: naming both.
    """
    seen: dict[str, str] = {}
    for name in names:
        if INTEGER.fullmatch(name) and (first := seen.setdefault(canonical_integer(name), name)) != name:
            raise DataError(
                f"The classes {quoted(first)} and {quoted(name)} are the same number.",
                "Write each class in one way only.",
            )


def declared_classes(metadata: Mapping[bytes, bytes] | None, column: str) -> tuple[str, ...]:
    """The ClassLabel names that a Parquet schema declares for a column, in their order; empty without any.

    Raises:
        DataError: a name occurs twice.
    """
    try:
        # Hugging Face writes {"info": {"features": {column: {"names": [...], "_type": "ClassLabel"}}}}.
        info = json.loads((metadata or {})[b"huggingface"])
        names = info["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    if not isinstance(names, list):
        return ()
    declared = tuple(class_form(str(name)) for name in names)
    if len(set(declared)) != len(declared):
        raise DataError(f"The ClassLabel names of column {column} are not distinct.", "Rename the classes.")
    check_integers(declared)
    return declared


def class_metadata(column: str, classes: Sequence[str], others: Mapping[str, object]) -> dict[bytes, bytes]:
    """The schema metadata that declares the class names, as ``declared_classes`` reads them.

    Args:
        column: of labels.
        classes: K names.
        others: descriptions of the other columns, as Hugging Face writes them.
    """
    features = {**others, column: {"names": list(classes), "_type": "ClassLabel"}}
    return {b"huggingface": json.dumps({"info": {"features": features}}, ensure_ascii=False).encode()}


def suggest(name: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown word: the closest known words, or else the first ten of them."""
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"did you mean {' or '.join(quoted(word) for word in close)}?"
    shown = ", ".join(map(short, known[:10])) + (", ..." if len(known) > 10 else "")
    return f"there is {shown}"
