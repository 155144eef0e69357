"""The images of a cleaned data set: a folder for each class, or the folder that Hugging Face's imagefolder reads."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from metaselect.data.originals import Original, file_stems, stream_originals
from metaselect.records import Reporter
from metaselect.run.layout import Run
from metaselect.text import counted, examples

FOLDER, HF = LAYOUTS = ("folder", "hf")
IMAGES = "images"
HF_SPLIT = "train"


class LabelledImage(NamedTuple):
    """The final label and weight of a sample that is not left out; ``decision``: of ``decisions.DECISIONS``."""

    label: str
    weight: float
    decision: str


def write_images(
    run: Run,
    labels: Mapping[str, LabelledImage],
    folder: Path,
    layout: str,
    *,
    link: bool,
    report: Reporter,
) -> list[str]:
    """Write the image of every sample that has a final label.

    ``folder``: ``images/<class>/<sample_id>.<ext>``, which `ingest` and torchvision's ImageFolder read. ``hf``:
    ``images/train/<sample_id>.<ext>`` and ``images/train/metadata.jsonl``, which ``datasets`` reads as an imagefolder.
    Names that are no file names on every system, such as ``a/b``, become "s" and a part of their sha256.

    Args:
        run: an ingested run whose samples have images.
        labels: of samples of the pool, by sample_id.
        folder: of the data set.
        layout: of ``LAYOUTS``.
        link: make symbolic links to the files of the data set instead of copies, where it has files.
        report: progress and warnings.

    Returns:
        Globs of the files, below ``folder``.
    """
    stems = file_stems(list(labels))
    classes = file_stems(sorted({each.label for each in labels.values()}))
    if renamed := [name for name, stem in classes.items() if name != stem and layout == FOLDER]:
        report.warn(
            f"{counted(len(renamed), 'class has', 'classes have')} a name that is no folder's name, and another name "
            f"there: {examples([f'{name} in {classes[name]}' for name in renamed])}."
        )
    places: dict[str, str] = {}
    stored, copied = 0, 0
    with report.track(len(labels), "Images", "images") as advance:
        for original in stream_originals(run, list(labels)):
            sample_id = original.sample_id
            parent = HF_SPLIT if layout == HF else classes[labels[sample_id].label]
            places[sample_id] = f"{IMAGES}/{parent}/{stems[sample_id]}{original.suffix}"
            linked = _write(folder / places[sample_id], original, link=link)
            stored += original.stored
            copied += link and not linked
            advance(1)
    if stored:
        report.warn(
            f"{counted(stored, 'image is', 'images are')} no longer where the data set was, or changed: the pixels "
            "that the run stores were written in their place."
        )
    if copied > stored:
        report.note(
            f"{counted(copied - stored, 'image was', 'images were')} copied: no file has just its bytes."
        )
    if layout == HF:
        text = "".join(_metadata(labels, places))
        (folder / IMAGES / HF_SPLIT / "metadata.jsonl").write_text(text, encoding="utf-8")
    suffixes = sorted({Path(place).suffix for place in places.values()})
    return [f"{IMAGES}/*/*{suffix}" for suffix in suffixes]


def _write(path: Path, original: Original, *, link: bool) -> bool:
    """Write or link one image; whether it was linked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = original.place
    if link and place is not None and place.is_file() and place.read_bytes() == original.raw:
        path.symlink_to(os.path.abspath(place))
        return True
    path.write_bytes(original.raw)
    return False


def _metadata(labels: Mapping[str, LabelledImage], places: Mapping[str, str]) -> Iterator[str]:
    """The lines of ``metadata.jsonl``, in the order of ids."""
    for sample_id in sorted(places):
        label = labels[sample_id]
        row = {
            "file_name": Path(places[sample_id]).name,
            "sample_id": sample_id,
            "label": label.label,
            "weight": round(label.weight, 6),
            "decision": label.decision,
        }
        yield json.dumps(row, ensure_ascii=False) + "\n"
