"""JUnit XML: each rule of the gate is a test case, for CI systems that show test results."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from carbide.report.gate import PROPERTIES, found
from carbide.report.sarif import failure, room_of
from carbide.results import Results
from carbide.run.store import write_whole

_BAD = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot hold


def to_junit(results: Results) -> str:
    """The gate as JUnit XML; a rule whose metric was not measured fails, and each property is a test case of its own."""
    failed = sum(not line.passed for line in results.gate)
    counts = {"tests": str(len(results.gate)), "failures": str(failed), "errors": "0", "skipped": "0"}
    root = ElementTree.Element("testsuites", {"name": "carbide", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": f"carbide gate: {_clean(results.title)}", **counts})
    for line in results.gate:
        room = PROPERTIES if line.metric == PROPERTIES else room_of(line.metric, results) or "performance"
        case = ElementTree.SubElement(suite, "testcase", {"classname": f"carbide.gate.{room}", "name": _clean(line.rule)})
        if line.passed:
            ElementTree.SubElement(case, "system-out").text = _clean(f"{found(line)}; {line.reason}")
        else:
            kind = line.verdict or ("not measured" if line.value != line.value else "breached")
            said = _clean(failure(line))
            ElementTree.SubElement(case, "failure", {"message": said, "type": kind}).text = said
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def write_junit(results: Results, path: Path) -> None:
    """Write the file whole."""
    write_whole(path, to_junit(results).encode())


def _clean(text: str) -> str:
    return _BAD.sub("?", text)
