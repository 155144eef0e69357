"""Annotators: what comes back when the form of a tool was answered in that tool."""

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

from annotation_run import csv_rows

from metaselect.text import escape_formula, unescape_formula

ALSO = ("unsure", "bad_sample")
Said = Mapping[str, str]
"""sample_id -> a class name, "skip", "unsure" or "bad_sample" (if that is no class); nothing where it is still open."""


def in_a_spreadsheet(path: Path, said: Said, classes: list[str], chance: Random) -> bytes:
    """Rows and columns in another order, perhaps with a byte order mark, CRLF, or semicolons."""
    rows = harmless(csv_rows(path))
    for row in rows:
        answer = said.get(unescape_formula(row["sample_id"]), "")
        column = "clean_label" if answer in classes or not answer else "status"
        row[column] = escape_formula(answer)
    return table(rows, chance, delimiter=chance.choice(",;\t"))


def harmless(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows of which no cell would be run by a spreadsheet."""
    assert [
        cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    ] == []
    return rows


def table(rows: list[dict[str, str]], chance: Random, **form: Any) -> bytes:
    columns = chance.sample([*rows[0]], len(rows[0]))
    out = io.StringIO()
    ends = chance.choice(["\n", "\r\n"])
    writer = csv.DictWriter(out, columns, lineterminator=ends, quoting=csv.QUOTE_ALL, **form)
    writer.writeheader()
    writer.writerows(chance.sample(rows, len(rows)))
    return out.getvalue().encode(chance.choice(["utf-8", "utf-8-sig"]))


def in_label_studio(path: Path, said: Said, classes: list[str], chance: Random) -> bytes:
    """The raw JSON of an export, the labels taken from the labelling configuration."""
    config = ElementTree.parse(path.with_name("config.xml"))
    shown = [each.get("value") for each in config.findall(".//Choices[@name='clean_label']/Choice")]
    assert shown == classes
    tasks = json.loads(path.read_text(encoding="utf-8"))
    for number, task in enumerate(tasks):
        answer = said.get(task["data"]["sample_id"])
        control = "clean_label" if answer in classes else "status"
        made = {"id": number, "completed_by": 3, "result": [], "was_cancelled": False}
        if answer == "skip" and control == "status":
            made["was_cancelled"] = True
        elif answer is not None:
            choice = {"from_name": control, "to_name": "image", "type": "choices"}
            made["result"] = [{**choice, "value": {"choices": [answer]}}]
        task["annotations"] = [made] if answer is not None or chance.random() < 0.5 else []
        task["predictions"] = chance.choice([[], [17]])
    return json.dumps(chance.sample(tasks, len(tasks)), ensure_ascii=chance.random() < 0.5).encode()


def min_records(raw: bytes) -> list[dict[str, Any]]:
    """One record per annotation, skipped tasks gone, as the converter of Label Studio does it."""
    records: list[dict[str, Any]] = []
    for number, task in enumerate(json.loads(raw)):
        kept = [each for each in task["annotations"] if not each["was_cancelled"]]
        for each in kept or (
            [{"result": [], "id": None, "completed_by": None}] if not task["annotations"] else []
        ):
            record = {**task["data"], "id": number, "annotator": each["completed_by"]}
            record |= {result["from_name"]: result["value"]["choices"][0] for result in each["result"]}
            records.append({**record, "annotation_id": each["id"], "lead_time": 1.5})
    return records


def in_label_studio_min(path: Path, said: Said, classes: list[str], chance: Random) -> bytes:
    return json.dumps(min_records(in_label_studio(path, said, classes, chance))).encode()


def in_label_studio_csv(path: Path, said: Said, classes: list[str], chance: Random) -> bytes:
    records = min_records(in_label_studio(path, said, classes, chance))
    columns = sorted(set().union(*records, {"annotation_id", "clean_label", "status"}))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().encode()


def in_cvat(path: Path, said: Said, classes: list[str], chance: Random) -> bytes:
    """Tags, in a zip or not; who skips leaves no tag."""
    names = {
        unescape_formula(row["image"]): unescape_formula(row["sample_id"])
        for row in harmless(csv_rows(path.with_name("id_map.csv")))
    }
    labels = json.loads(path.with_name("labels.json").read_text(encoding="utf-8"))
    shown = [each["name"] for each in labels]
    assert shown == [*classes, *(each for each in ALSO if each not in classes)]
    tree = ElementTree.fromstring(path.read_bytes())
    images = tree.findall("image")
    assert [each.get("name") for each in images] == sorted(names)
    for image in chance.sample(images, len(images)):
        answer = said.get(names[image.get("name", "")])
        if answer is not None and (answer in classes or answer != "skip"):
            ElementTree.SubElement(image, "tag", {"label": answer, "source": "manual"})
    meta = ElementTree.Element("meta")
    ElementTree.SubElement(ElementTree.SubElement(meta, "image"), "tag", {"label": "not an answer"})
    tree.insert(0, meta)
    raw = ElementTree.tostring(tree, encoding="utf-8", xml_declaration=True)
    return zipped({"annotations.xml": raw}) if chance.random() < 0.5 else raw


def in_the_page(path: Path, said: Said, classes: list[str], chance: Random) -> bytes:
    """The CSV that the page's button downloads."""
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall('<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    page = json.loads(found)
    assert page["classes"] == classes
    rows = [("batch_id", "sample_id", "clean_label", "annotator", "status", "note")]
    for item in page["items"]:
        answer = said.get(item["id"], "")
        label, status = (answer, "done" if answer else "") if answer in ("", *classes) else ("", answer)
        rows.append((page["batch"], item["id"], label, "carl" if answer else "", status, ""))
    return "".join(",".join(f'"{quoted(cell)}"' for cell in row) + "\n" for row in rows).encode()


def quoted(cell: str) -> str:
    return escape_formula(cell).replace('"', '""')


def zipped(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    return stream.getvalue()


PEOPLE: dict[str, tuple[str, str, Callable[[Path, Said, list[str], Random], bytes]]] = {
    "csv": ("csv", "labels.csv", in_a_spreadsheet),
    "label-studio JSON": ("label-studio", "label-studio/tasks.json", in_label_studio),
    "label-studio JSON_MIN": ("label-studio", "label-studio/tasks.json", in_label_studio_min),
    "label-studio CSV": ("label-studio", "label-studio/tasks.json", in_label_studio_csv),
    "cvat": ("cvat", "cvat/annotations.xml", in_cvat),
    "hf": ("hf", "hf/train/metadata.csv", in_a_spreadsheet),
    "html": ("html", "labels.html", in_the_page),
}
"""Way back -> the format of the form, its main file below ``export/round-1``, and who answers it."""
KEEPS_NO_NAMES = ("html",)
LOSES_SKIPS = ("label-studio JSON_MIN", "label-studio CSV", "cvat")
