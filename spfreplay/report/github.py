"""Tell a run as workflow commands of GitHub Actions: annotations at files.

``::error file=traces/x.txt,title=...::message``.  In a message ``%``, CR and LF
are escaped, in a property ``:`` and ``,`` as well; nothing else is.  GitHub
shows ten annotations of a kind for each step: the rest is only in the log.
"""

from __future__ import annotations

from typing import Final

from spfreplay.ci import CheckRun, Item
from spfreplay.report.text_ci import evidence, render
from spfreplay.report.words import count

_MESSAGE: Final = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_PROPERTY: Final = _MESSAGE | {":": "%3A", ",": "%2C"}

#: status -> the command; what could not be decided is no error of the trace
_COMMANDS: Final = {"undecided": "warning"}


def page(run: CheckRun) -> str:
    """Return the lines that a workflow prints."""
    lines = [annotation(item) for item in run.failures]
    passed = len(run.items) - len(run.failures)
    lines.append(
        f"::notice title=spfreplay::{passed} of {count(len(run.items), 'check')} passed"
    )
    lines.append("::group::spfreplay diff")
    # A line of the report must not be taken for a command.
    lines += [_message(line) if line.startswith("::") else line for line in _report(run)]
    lines.append("::endgroup::")
    return "\n".join(lines) + "\n"


def annotation(item: Item) -> str:
    """Return the command that annotates the file of an item that did not pass."""
    command = _COMMANDS.get(item.status, "error")
    title = f"{item.status}: {item.protocol}" if item.protocol else item.status
    message = "\n".join([item.why, *evidence(item)])
    return (
        f"::{command} file={_property(item.path)},title={_property(title)}::{_message(message)}"
    )


def _report(run: CheckRun) -> list[str]:
    return render(run).splitlines()


def _message(text: str) -> str:
    return "".join(_MESSAGE.get(char, char) for char in text)


def _property(text: str) -> str:
    return "".join(_PROPERTY.get(char, char) for char in text)
