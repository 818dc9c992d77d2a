"""Tell a run as JUnit XML, as Jenkins and GitLab read it.

One suite for each protocol, one case for each trace.  What failed is a
``failure``; what could not be read or decided is an ``error``.  Times are zero
and the timestamp is the beginning of the epoch: the same run gives the same
bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree as xml

from spfreplay.ci import CheckRun, Item
from spfreplay.report.text_ci import evidence

_TIMESTAMP: Final = "1970-01-01T00:00:00"

#: what XML 1.0 cannot say, not even escaped
_UNSPEAKABLE: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def page(run: CheckRun) -> str:
    """Return the document."""
    root = xml.Element("testsuites")
    protocols = list(dict.fromkeys(item.protocol for item in run.items))
    for number, protocol in enumerate(protocols):
        mine = [item for item in run.items if item.protocol == protocol]
        _suite(root, number, protocol, mine)
    xml.indent(root)
    body = xml.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _suite(root: xml.Element, number: int, protocol: str, items: Sequence[Item]) -> None:
    failures = sum(item.status == "failed" for item in items)
    errors = sum(item.exit_code != 0 for item in items) - failures
    suite = xml.SubElement(
        root,
        "testsuite",
        {
            "name": f"spfreplay diff {protocol}".rstrip() if protocol else "spfreplay refusals",
            "package": "spfreplay",
            "id": str(number),
            "timestamp": _TIMESTAMP,
            "hostname": "localhost",
            "tests": str(len(items)),
            "failures": str(failures),
            "errors": str(errors),
            "skipped": "0",
            "time": "0",
        },
    )
    xml.SubElement(suite, "properties")
    for item in items:
        _case(suite, item)
    xml.SubElement(suite, "system-out")
    xml.SubElement(suite, "system-err")


def _case(suite: xml.Element, item: Item) -> None:
    folder, name = os.path.split(item.path)
    case = xml.SubElement(
        suite,
        "testcase",
        {
            "classname": _said(folder.replace("/", ".").strip(".") or "traces"),
            "name": _said(name),
            "time": "0",
        },
    )
    if not item.exit_code:
        return
    tag = "failure" if item.status == "failed" else "error"
    attributes = {"message": _said(item.why), "type": item.status}
    text = "\n".join([item.why, *evidence(item)])
    xml.SubElement(case, tag, attributes).text = _said(text)


def _said(text: str) -> str:
    """Return ``text`` without what XML cannot say."""
    return _UNSPEAKABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
