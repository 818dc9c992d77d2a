"""A shrunk trace as a file that states what it shows, and is checked against that.

The header's fact ``shrunk`` says under which protocol which signature shows, in
which order of steps; ``expect`` is the verdict of a plain ``diff``, bounded where its
windows have more orders than that.  Both are taken from the file again and tried: by
who wrote it, and by the tests.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from spfreplay.ci import expectation_of
from spfreplay.diff import SCOPES, DiffOptions
from spfreplay.engines import EngineOptions
from spfreplay.engines.judge import perform
from spfreplay.errors import ModelError, SpfreplayError, TraceError
from spfreplay.explore.schedule import ScheduleError, read_runs, write_runs
from spfreplay.mutations import protocol
from spfreplay.one_window import WindowOptions, find
from spfreplay.orders import schedule_digest
from spfreplay.output import write_text
from spfreplay.pipeline import diff_trace
from spfreplay.shrink.draft import Draft
from spfreplay.shrink.predicate import Shows, recorded_order
from spfreplay.shrink.shrinking import Shrunk
from spfreplay.shrink.witness import Manner, Window
from spfreplay.signature import RECORDED, Signature, recorded_signature
from spfreplay.trace.container import Trace, open_trace

FACT: Final = "shrunk"
#: steps of a window for which a verdict is stated, if they are not enough for all orders
WITHIN: Final = 20_000
#: characters of a line of comment
_WIDE: Final = 88


@dataclass(frozen=True, slots=True)
class Claim:
    """What a shrunk trace is said to show.

    :param order: whose turn it is, as schedules write it: ``a47.b60``.
    :param least: no order has fewer switches.
    """

    engine: EngineOptions
    signature: Signature
    window: str = ""
    order: str = "-"
    switches: int = 0
    least: bool = True
    minimal: bool = False

    def fact(self, source: Mapping[str, Any]) -> dict[str, Any]:
        """Return the claim as the header has it."""
        engine = self.engine
        return {
            "protocol": engine.protocol,
            "file_faults": engine.file_faults,
            "speculate_single_threaded": engine.speculate_single_threaded,
            "outcome": self.signature.outcome,
            "kind": self.signature.kind,
            "steps": list(self.signature.steps),
            "window": self.window,
            "order": self.order,
            "switches": self.switches,
            "least": self.least,
            "minimal": self.minimal,
            **source,
        }

    @classmethod
    def of(cls, trace: Trace) -> Claim | None:
        """Return what a trace claims; None if it claims nothing.

        :raises TraceError: the claim has not the form it should have
        """
        fact = trace.header.facts.get(FACT)
        if fact is None:
            return None
        try:
            steps = tuple(map(_text, fact["steps"]))
            signature = Signature(_text(fact["outcome"]), _text(fact["kind"]), steps)
            engine = EngineOptions(
                protocol(_text(fact["protocol"])).name,
                fact["file_faults"] is True,
                fact["speculate_single_threaded"] is True,
            )
            window, order = _text(fact["window"]), _text(fact["order"])
            least, minimal = fact["least"] is True, fact["minimal"] is True
            return cls(engine, signature, window, order, int(fact["switches"]), least, minimal)
        except (KeyError, TypeError, ValueError) as error:
            expected = f"fact {FACT}: expected what shrink writes: {error!r}"
            raise TraceError(trace.path, "", expected) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r}, expected a string")
    return value


def claim(shrunk: Shrunk, shows: Shows) -> Claim:
    """Return what a shrunk trace shows, in the plainest order.

    :raises ModelError: it shows it no more
    """
    signature, manner = shows.signature, shows.manner
    shows.deadline = None
    if signature.outcome == RECORDED:
        return Claim(manner.engine, signature, minimal=shrunk.minimal)
    shows.look_shortly(False)
    found = shows.plainest(shrunk.tables, shrunk.events)
    if found is None:
        raise ModelError(f"{signature} is lost")
    witness = found.witness
    order = write_runs(witness.choices)
    return Claim(
        manner.engine,
        signature,
        witness.window,
        order,
        witness.switches,
        found.proven,
        shrunk.minimal,
    )


# -- the file -----------------------------------------------------------------


def regression_text(shrunk: Shrunk, made: Claim, source: Mapping[str, Any]) -> str:
    """Return the file: header, claim and trace.

    :param source: what it was made from: ``from`` which file, ``of`` which window.
    """
    header = replace(shrunk.tables.header, facts={FACT: made.fact(source)}, expect="")
    draft = Draft(replace(shrunk.tables, header=header), tuple(shrunk.events))
    found = diff_trace(draft.trace(), DiffOptions(window_steps=WITHIN))
    bound = "" if found.scope == SCOPES[-1] else f"; within {WITHIN}"
    header = replace(header, expect=f"{found.verdict}{bound}")
    draft = Draft(replace(shrunk.tables, header=header), tuple(shrunk.events))
    first, _, rest = draft.text.partition("\n")
    return "\n".join([first, *_comments(made, source), rest])


def _comments(made: Claim, source: Mapping[str, Any]) -> list[str]:
    steps = made.signature.steps
    lines = [f"Shrunk from {source['from']}"]
    lines[0] += f", window {source['of']}." if source["of"] else "."
    lines += [f"{made.signature.outcome}: {made.signature.kind}", *steps[:1]]
    lines += [f"before {step}" for step in steps[1:]]
    lines.append(f"{made.engine.protocol}, window {made.window}, order {made.order}")
    if not made.window:
        lines[-1] = f"{made.engine.protocol}, in the recorded order"
    return [f"# {line[:_WIDE]}" for line in lines]


def default_name(made: Claim, text: str) -> str:
    """Return a file name that tells what it shows."""
    from spfreplay.corpus.entry import name_of

    words = made.signature.outcome.lower().replace("_", "-")
    under = made.engine.protocol.rpartition("+")[2].lower()
    return f"shrunk-{words}-{under}-{name_of(text)[:8]}.txt"


def write_regression(path: Path, text: str) -> None:
    """Write the file and check it by a process of its own.

    :raises ModelError: what was written does not show what it says
    :raises OSError: it cannot be written
    """
    write_text(path, text)
    check = "import sys; from spfreplay.shrink.regression import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", check, str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        why = (done.stdout or done.stderr).strip().splitlines()
        raise ModelError(f"{path}: {why[-1] if why else 'the check of it was killed'}")


def main() -> int:
    """Check the file that the command line names; return 1 if it does not hold."""
    try:
        wrong = disagreement(open_trace(sys.argv[1]))
    except SpfreplayError as error:
        wrong = str(error)
    print(wrong)
    return int(bool(wrong))


def disagreement(trace: Trace) -> str:
    """Say what of a shrunk trace is not as it claims; "" if all is.

    :raises TraceError: the claim has not the form it should have
    :raises SpfreplayError: its window or order does not exist
    """
    made = Claim.of(trace)
    if made is None:
        return "it claims nothing"
    options = DiffOptions()
    stated = expectation_of(trace.header.expect, options.protocol, trace.path)
    found = diff_trace(trace, options._replace(window_steps=stated.within))
    if found.verdict != stated.verdict:
        return f"expected {trace.header.expect}, found {found.verdict}"
    if made.signature.outcome == RECORDED:
        shown = recorded_signature(recorded_order(trace, Manner(made.engine)))
        return "" if shown == made.signature else f"expected {made.signature}, found {shown}"
    return _in_its_order(trace, made)


def _in_its_order(trace: Trace, made: Claim) -> str:
    part, case = find(trace, made.window, WindowOptions(made.engine))
    choices = read_runs(made.order)
    window = Window(part, Manner(made.engine))
    try:
        result = perform(case, choices, made.engine)
    except ScheduleError as reason:
        return str(reason)
    if window.as_it_is(result, choices, made.signature) is None:
        findings = ", ".join(map(str, window.teller.findings(result)))
        return f"expected {made.signature}, found {findings or 'nothing'}"
    return ""


def replay_command(path: str, trace: Trace, made: Claim) -> str:
    """Return the command that performs the order again; "" where there is none."""
    if not made.window:
        return ""
    part, _ = find(trace, made.window, WindowOptions(made.engine))
    digest = schedule_digest(trace, part.members, made.engine)
    options = "" if made.engine.protocol == "spf-v11" else f" --protocol {made.engine.protocol}"
    options += " --file-faults" * made.engine.file_faults
    options += " --speculate-single-threaded" * made.engine.speculate_single_threaded
    return (
        f"spfreplay replay {path}{options} --window {made.window}"
        f" --schedule v1:{digest}:{made.order}"
    )
