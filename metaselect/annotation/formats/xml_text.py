"""Characters that XML allows, and a parser that refuses document types."""

import re
from collections.abc import Callable, Iterable, Mapping
from xml.parsers import expat

from metaselect.errors import DataError
from metaselect.text import quoted

MAX_ELEMENTS = 20_000_000  # half a minute's work; a file of any size may consist of nothing else
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def require_xml_characters(texts: Iterable[str], what: str) -> None:
    """Refuse texts that XML cannot represent.

    Raises:
        DataError: a text has a character that XML does not allow.
    """
    for text in texts:
        if NOT_XML.search(text):
            raise DataError(
                f"The {what} {quoted(text)} holds a character that XML does not have.", "Use --format csv."
            )


def walk_xml(
    chunks: Iterable[bytes],
    name: str,
    start: Callable[[str, Mapping[str, str]], None],
    end: Callable[[str], None],
    remedy: str,
) -> None:
    """Call ``start`` with each element's name and attributes and ``end`` behind it, in order.

    Raises:
        DataError: not XML, in an encoding that is not known, with more than ``MAX_ELEMENTS``, or with a document type:
            entities could grow without end or name other files.
    """
    count = 0

    def counted(element: str, attributes: Mapping[str, str]) -> None:
        nonlocal count
        count += 1
        if count > MAX_ELEMENTS:
            raise DataError(f"{name} has more than {MAX_ELEMENTS:,} elements.", remedy)
        start(element, attributes)

    def refuse(*_: object) -> None:
        raise DataError(f"{name} declares a document type, which is not read.", remedy)

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = counted
    parser.EndElementHandler = end
    try:
        for chunk in chunks:
            parser.Parse(chunk, False)
        parser.Parse(b"", True)
    except (
        expat.ExpatError,
        LookupError,
        ValueError,
    ) as error:  # the last two: of the encoding that it declares
        raise DataError(f"{name} is not an XML file: {error}.", f"{remedy} The XML is in UTF-8.") from None
