"""The gate's conditions as JUnit XML, which servers for continuous integration show."""

import re
from xml.etree import ElementTree

from metaselect.report.gate import FAIL, PASS, GateReport
from metaselect.text import visible

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document may hold, escaped or not."""


def junit(report: GateReport) -> str:
    """One test case a condition: a failed one has a ``failure``, one that nobody can tell an ``error``."""
    verdicts = [condition.verdict for condition in report.conditions]
    counts = {
        "tests": str(len(verdicts)),
        "failures": str(verdicts.count(FAIL)),
        "errors": str(sum(verdict not in (PASS, FAIL) for verdict in verdicts)),
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "metaselect gate", **counts})
    where = "/".join(part for part in (report.run, report.test, report.model) if part)
    for condition in report.conditions:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _text(where), "name": condition.name, "time": "0"}
        )
        if condition.verdict == PASS:
            ElementTree.SubElement(case, "system-out").text = _text(condition.sentence())
            continue
        kind = "failure" if condition.verdict == FAIL else "error"
        attributes = {"type": condition.verdict, "message": _text(condition.why)}
        ElementTree.SubElement(case, kind, attributes).text = _text(condition.sentence())
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _text(text: str) -> str:
    """The text with control characters escaped as Python writes them, and others that XML cannot hold left out."""
    return NOT_XML.sub("", visible(text))
