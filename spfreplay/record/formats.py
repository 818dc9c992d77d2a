"""Read the kernel's ``format`` text of an event and compile a reader for it.

Layouts differ between kernels, so names, offsets, sizes and signs are always
taken from the text and never assumed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from spfreplay.errors import CannotError
from spfreplay.record.catalog import RAW_ENTER, Wanted

_FIELD: Final = re.compile(
    r"^[ \t]*field:[ \t]*(?P<type>.+?)[ \t]*\b(?P<name>\w+)(?P<array>\[\w*\])?;"
    r"[ \t]*offset:(?P<offset>\d{1,5});[ \t]*size:(?P<size>\d{1,5});"
    r"(?:[ \t]*signed:(?P<signed>[01]);)?",
    re.M,
)
#: no payload of an event is longer: u16 sizes (bytes)
_FARTHEST: Final = 1 << 16
_CODES: Final = {(8, 0): "q", (8, 1): "q", (4, 0): "I", (4, 1): "i", (2, 0): "H", (2, 1): "h",
                 (1, 0): "B", (1, 1): "b"}  # fmt: skip

Unpack = Callable[..., tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class FormatField:
    """One field: ``offset`` and ``size`` in bytes from the payload's start."""

    name: str
    offset: int
    size: int
    signed: bool


@dataclass(frozen=True, slots=True)
class EventFormat:
    """A parsed ``format`` text: the event's number and its fields in order."""

    id: int
    name: str
    fields: tuple[FormatField, ...]

    def field(self, name: str) -> FormatField | None:
        """Return the field called ``name``, or None."""
        return next((one for one in self.fields if one.name == name), None)


def parse_format(text: str) -> EventFormat:
    """Parse one ``events/SYSTEM/EVENT/format`` text.

    :raises CannotError: the text has no name, number or fields.
    """
    name = re.search(r"^name:\s*(\S+)", text, re.M)
    number = re.search(r"^ID:\s*(\d+)", text, re.M)
    fields = tuple(
        FormatField(one["name"], int(one["offset"]), int(one["size"]), one["signed"] == "1")
        for one in _FIELD.finditer(text)
    )
    if name is None or number is None or not fields:
        raise CannotError(f"tracefs: not the format of an event: {text[:40]!r}")
    return EventFormat(int(number[1]), name[1], fields)


def compile_reader(form: EventFormat, names: tuple[str, ...]) -> tuple[Unpack, tuple[int, ...]]:
    """Return a struct reader of common_pid and ``names``, and their order.

    A struct reads in the order of offsets, so the second value says for each
    of (tid, *names) its place in what the struct returns; -1 = missing.
    ``unsigned long`` is read as a signed 64-bit pattern, as traces keep it.
    """
    order: list[FormatField] = []
    places: dict[str, FormatField | None] = {}
    for name in ("common_pid", *names):
        optional = name.endswith("?")
        found = form.field(name.rstrip("?"))
        if found is None and not optional:
            raise CannotError(
                f"tracefs: event {form.name} of this kernel has no field {name!r}; "
                "spfreplay does not know this layout"
            )
        places[name] = found
        if found is not None and found not in order:
            order.append(found)
    order.sort(key=lambda one: one.offset)
    text, at = "<", 0
    for one in order:
        code = _CODES.get((one.size, int(one.signed)))
        if code is None or not at <= one.offset < _FARTHEST:
            place = f"size {one.size} at {one.offset}"
            raise CannotError(f"tracefs: field {one.name} of {form.name}: {place}")
        text += f"{one.offset - at}x{code}"
        at = one.offset + one.size
    index = tuple(
        -1 if (field := places[name]) is None else order.index(field)
        for name in ("common_pid", *names)
    )
    return struct.Struct(text).unpack_from, index


def compile_event(form: EventFormat, wanted: Wanted) -> Unpack:
    """Return a function (buffer, offset) -> (tid, fields of ``wanted``…).

    System-call entries give (tid, CALL_*, arguments), exits (tid, CALL_*, ret).
    """
    if wanted.fields is None:
        names = tuple(
            one.name
            for one in form.fields
            if not one.name.startswith("common_")
            and one.name != "__syscall_nr"
            # A later kernel appends the text of user strings after the arguments.
            and one.size == 8
        )
    else:
        names = wanted.fields
    unpack, index = compile_reader(form, names)
    plain = index == tuple(range(len(index)))
    if wanted.call >= 0:
        return _call_reader(unpack, index, wanted.call, wanted.code == RAW_ENTER)
    if plain:
        return unpack
    return lambda buffer, offset: _pick(unpack(buffer, offset), index)


def _pick(values: tuple[Any, ...], index: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(values[one] if one >= 0 else 0 for one in index)


def _call_reader(unpack: Unpack, index: tuple[int, ...], call: int, entry: bool) -> Unpack:
    padding = (0,) * max(0, 7 - len(index)) if entry else ()

    def read(buffer: bytes, offset: int) -> tuple[Any, ...]:
        values = _pick(unpack(buffer, offset), index)
        return (values[0], call, *values[1:], *padding)

    return read
