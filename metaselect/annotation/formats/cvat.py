"""CVAT for images 1.1: frames and labels out; annotations.xml, bare or in its zip, back.

CVAT keeps no ids: answers are matched by the exported name of the image. Frames are numbered in the order of their
names, since CVAT matches an uploaded file by frame number in some places and by name in others.
"""

import io
import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from xml.sax.saxutils import escape, quoteattr

from metaselect.annotation.formats.base import Answer, Form, has_answers, plain_spellings
from metaselect.annotation.formats.xml_text import require_xml_characters, walk_xml
from metaselect.annotation.votes import BAD_SAMPLE, UNSURE
from metaselect.errors import DataError
from metaselect.records import Json
from metaselect.run.files import format_csv
from metaselect.text import escape_formula, examples

ANNOTATIONS = "annotations.xml"
MAX_BYTES = 1 << 30  # of the unpacked XML: a small zip may unpack to any size
CHUNK = 1 << 20
ZIP = b"PK\x03\x04"
WORKBOOK = b"xl/workbook.xml"  # the main part of Excel's files; a zip holds names as they are
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(NotImplementedError, RuntimeError, EOFError, OSError, ValueError),
)
"""What the standard library raises for a damaged zip."""
REMEDY = "Export the task from CVAT as `CVAT for images 1.1`, with or without images."


class CvatFormat:
    """``annotations.xml`` with one tag per image; shapes beside a tag are ignored."""

    file_name = "cvat/annotations.xml"
    capabilities: frozenset[str] = frozenset()
    instructions = (
        "Create a CVAT task of {folder}/images with the raw labels of labels.json, "
        "and export it as CVAT for images 1.1"
    )

    spellings = staticmethod(plain_spellings)

    def write(self, form: Form) -> Mapping[str, str]:
        """The frames without tags, ``labels.json`` for a new task, and ``id_map.csv``, which the import does not need.

        Raises:
            DataError: a class name holds a character that XML does not have.
        """
        require_xml_characters(form.classes, "class name")
        # The folder images/ is uploaded, so that CVAT sees names without it.
        named = sorted((PurePosixPath(item.image).name, item) for item in form.items)
        frames = "".join(
            f' <image id="{number}" name={quoteattr(name)} width="{item.size[0]}" height="{item.size[1]}">'
            "</image>\n"
            for number, (name, item) in enumerate(named)
        )
        labels = [*form.classes, *(each for each in (UNSURE, BAD_SAMPLE) if each not in form.classes)]
        described: list[Json] = [{"name": each, "type": "tag", "attributes": []} for each in labels]
        rows = [(escape_formula(name), escape_formula(item.sample_id), form.batch_id) for name, item in named]
        return {
            ANNOTATIONS: '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n <version>1.1</version>\n'
            f"{_meta_element(labels)}{frames}</annotations>\n",
            "labels.json": json.dumps(described, indent=1, ensure_ascii=False) + "\n",
            "id_map.csv": format_csv(("image", "sample_id", "batch_id"), rows),
        }

    def read(self, content: bytes, name: str) -> list[Answer]:
        """One answer per tag; a blank one for an image without tags.

        Raises:
            DataError: no XML, with a document type, a zip without it, not of CVAT for images, or shapes without a tag.
        """
        reader = _TagCollector()
        walk_xml(_annotations_xml(content, name), name, reader.start, reader.end, REMEDY)
        if not reader.is_annotations:
            raise DataError(f"{name} is not an export of CVAT for images.", REMEDY)
        if reader.shapes and not has_answers(reader.answers):
            raise DataError(
                f"{name} holds {reader.shapes} boxes, tracks or other shapes, and no tags.",
                "A label is a tag of the whole image: make the task with labels.json, whose labels are tags.",
            )
        if reader.untagged:
            raise DataError(
                f"{name} holds boxes or other shapes and no tag for {examples(reader.untagged)}; "
                "elsewhere it has tags.",
                "A label is a tag of the whole image: tag these in CVAT, or delete their shapes, and export again.",
            )
        return reader.answers

    def recognises(self, content: bytes) -> bool:
        """Any zip that is no workbook, or XML with the root ``annotations``."""
        if content.startswith(ZIP):
            return WORKBOOK not in content
        return b"<annotations" in content.lstrip()[:8192].replace(b"\0", b"")  # in UTF-8 or UTF-16


def _meta_element(labels: Sequence[str]) -> str:
    """The task's labels as in CVAT's own exports, which other readers of this format require."""
    names = "".join(
        f"   <label><name>{escape(each)}</name><type>tag</type><attributes></attributes></label>\n"
        for each in labels
    )
    return f" <meta><task><labels>\n{names}  </labels></task></meta>\n"


class _TagCollector:
    """Collects the images and their tags while the file is parsed."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.is_annotations = False
        self.depth = 0
        self.row = 0
        self.shapes = 0
        self.shapes_before = 0  # the image
        self.untagged: list[str] = []
        self.image: str | None = None
        self.tags: list[str] = []

    def start(self, element: str, attributes: Mapping[str, str]) -> None:
        if self.depth == 0:
            self.is_annotations = element == "annotations"
        elif self.depth == 1 and element == "track":  # of a video
            self.shapes += 1
            self.untagged.append(f"track {attributes.get('id', '')}")
        elif self.depth == 1 and element == "image":
            self.row, self.image, self.tags = self.row + 1, attributes.get("name", ""), []
            self.shapes_before = self.shapes
        elif self.depth == 2 and element == "tag" and self.image is not None:
            self.tags.append(attributes.get("label", ""))
        elif self.depth == 2 and "label" in attributes and self.image is not None:
            self.shapes += 1
        self.depth += 1

    def end(self, element: str) -> None:
        self.depth -= 1
        if self.depth == 1 and element == "image" and self.image is not None:
            self.answers += [
                Answer(self.row, "", label, "", "", "", "", self.image) for label in self.tags or [""]
            ]
            if self.shapes > self.shapes_before and not self.tags:
                self.untagged.append(self.image)
            self.image = None


def _annotations_xml(content: bytes, name: str) -> Iterator[bytes]:
    """The XML in chunks, unpacked from its zip where it is in one, so that memory does not grow with what it holds."""
    if not content.startswith(ZIP):
        yield content
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = [each for each in archive.infolist() if PurePosixPath(each.filename).name == ANNOTATIONS]
            if len(found) != 1:
                names = ", ".join(archive.namelist()[:5])
                raise DataError(
                    f"{name} holds {len(found)} files {ANNOTATIONS}, not one; it begins with {names:.200}.",
                    f"{REMEDY} Of another tool, import the files in the zip one by one, each with --annotator NAME.",
                )
            size = 0
            with archive.open(found[0]) as stream:
                while chunk := stream.read(CHUNK):
                    size += len(chunk)
                    if size > MAX_BYTES:
                        raise DataError(
                            f"{name}: its {ANNOTATIONS} has more than {MAX_BYTES >> 20} MiB.", REMEDY
                        )
                    yield chunk
    except DAMAGE as error:
        raise DataError(f"{name} is a damaged zip: {error}.", REMEDY) from None
