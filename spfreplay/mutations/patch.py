"""What a patch to the protocol is: data that says where it comes from and what it should do."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent
from typing import Final, Literal, NamedTuple

from spfreplay.errors import ModelError
from spfreplay.mm.patching import Edit

#: KILL: an outcome or a final state tells.  KILL(access): only whoever watches
#: the accesses or locks sees it.  EQUIV: nothing must be found.  ARCH: caught
#: only with a feature that is often left out.  FIX: a published mend.
Kind = Literal["KILL", "KILL(access)", "EQUIV", "ARCH", "FIX"]


class PatchError(ModelError):
    """A patch or a protocol is named that does not exist, or patches do not go together."""


class Prediction(NamedTuple):
    """What a patch is expected to do, before anybody has tried.

    :param outcomes: of a KILL: outcomes of ``spfreplay.oracles``, each of which
        would do; empty where any will.
    """

    kind: Kind
    outcomes: tuple[str, ...] = ()


FIX: Final = Prediction("FIX")
EQUIV: Final = Prediction("EQUIV")


def kill(*outcomes: str) -> Prediction:
    """Predict that one of ``outcomes`` is found."""
    return Prediction("KILL", outcomes)


def kill_access(*outcomes: str) -> Prediction:
    """Predict that one of ``outcomes`` is found, but by a watcher of the steps only."""
    return Prediction("KILL(access)", outcomes)


def arch(*outcomes: str) -> Prediction:
    """Predict that one of ``outcomes`` is found where the model has the feature."""
    return Prediction("ARCH", outcomes)


@dataclass(frozen=True, slots=True)
class Patch:
    """One change of the protocol.

    :param source: where it is written down that this matters.
    :param twin: slug of the defect in the catalogue of races that it is, or is like.
    :param base: the protocol that it is a change of, and its prediction holds for.
    :param features: parts of the model that a window must use to show it.
    :param without: fixes of the base that it takes back.
    :param aliases: other ids of the same patch.
    """

    id: str
    title: str
    prediction: Prediction
    edits: tuple[Edit, ...] = ()
    source: str = "v11 19/26"
    twin: str = ""
    base: str = "spf-fixed"
    features: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Absent:
    """A row of the catalogue that is no patch here, and why."""

    id: str
    title: str
    reason: str
    aliases: tuple[str, ...] = ()


def hunk(module: str, function: str, text: str) -> Edit:
    """Read an edit in the form of a diff.

    Lines begin with a space (stays), ``-`` (goes) or ``+`` (comes).

    :raises PatchError: on any other line.
    """
    anchor: list[str] = []
    replacement: list[str] = []
    for line in text.strip("\n").split("\n"):
        mark, rest = line[:1], line[1:]
        if mark not in ("", " ", "-", "+"):
            raise PatchError(f"{module}.{function}: {line!r} is no line of a diff")
        if mark != "+":
            anchor.append(rest)
        if mark != "-":
            replacement.append(rest)
    return Edit(module, function, tuple(anchor), tuple(replacement))


def instead(module: str, function: str, text: str) -> Edit:
    """Put ``text``, whole functions, in the place of one; of none: at the end of a module."""
    return Edit(module, function, (), tuple(dedent(text).strip("\n").split("\n")))
