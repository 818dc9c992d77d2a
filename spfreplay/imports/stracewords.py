"""The words of strace: arguments of calls, as numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from spfreplay.record import catalog as k
from spfreplay_reference import contract as c

_NUMBER: Final = re.compile(r"-?(?:0x[0-9a-fA-F]{1,16}|[0-9]{1,20})")
_OPENERS: Final = {"(": ")", "[": "]", "{": "}"}
#: arguments of one call that are looked at
_MOST: Final = 16


def _names(*prefixes: str) -> dict[str, int]:
    return {
        name: value
        for name, value in vars(c).items()
        if isinstance(value, int) and name.startswith(prefixes)
    }


_CLONE_OTHERS: Final = {
    "CLONE_FS": 0x200, "CLONE_FILES": 0x400, "CLONE_SIGHAND": 0x800, "CLONE_PIDFD": 0x1000,
    "CLONE_PTRACE": 0x2000, "CLONE_PARENT": 0x8000, "CLONE_SYSVSEM": 0x40000,
    "CLONE_SETTLS": 0x80000,
}  # fmt: skip
_OPEN: Final = {
    "O_RDONLY": 0, "O_WRONLY": 1, "O_RDWR": 2, "O_CREAT": 0o100, "O_TRUNC": 0o1000,
}  # fmt: skip
#: call -> which words its flags have
_WORDS: Final[dict[int, Mapping[str, int]]] = {
    k.CALL_MMAP: _names("PROT_", "MAP_") | {"MAP_FILE": 0, "MAP_EXECUTABLE": 0x1000},
    k.CALL_MPROTECT: _names("PROT_"),
    k.CALL_PKEY_MPROTECT: _names("PROT_"),
    k.CALL_MREMAP: _names("MREMAP_"),
    k.CALL_MADVISE: _names("MADV_"),
    k.CALL_MBIND: _names("MPOL_"),
    k.CALL_PRCTL: {"PR_SET_VMA": 0x5356_4D41},
    k.CALL_MLOCK2: _names("MLOCK_"),
    k.CALL_MLOCKALL: _names("MCL_"),
    k.CALL_CLONE: _names("CLONE_") | _CLONE_OTHERS,
    k.CALL_CLONE3: _names("CLONE_") | _CLONE_OTHERS,
    k.CALL_OPENAT: _OPEN,
    k.CALL_OPEN: _OPEN,
    k.CALL_SHMAT: {"SHM_RDONLY": 0o10000, "SHM_REMAP": 0o40000, "SHM_EXEC": 0o100000},
}
#: words that are none of ours: they change no memory, whatever number they have
_OTHER_WORD: Final = re.compile(r"[A-Z][A-Z0-9_]*(?:<<\d+)?")


def split_arguments(text: str) -> list[str]:
    """Return the arguments of a call, strings and structures kept whole.

    :raises ValueError: a bracket or a string is not closed
    """
    found: list[str] = []
    closing: list[str] = []
    start = at = 0
    while at < len(text):
        letter = text[at]
        if letter == '"':
            at = _end_of_string(text, at)
        elif letter in _OPENERS:
            closing.append(_OPENERS[letter])
        elif closing and letter == closing[-1]:
            closing.pop()
        elif letter == "<" and at and (text[at - 1].isdigit() or text[at - 1] == "D"):
            at = _end_of_path(text, at)
        elif letter == "," and not closing and len(found) < _MOST:
            found.append(text[start:at].strip())
            start = at + 1
        at += 1
    if closing:
        raise ValueError(f"expected {closing[-1]}")
    if text[start:].strip():
        found.append(text[start:].strip())
    return found


def _end_of_string(text: str, at: int) -> int:
    """Return where the string that begins at ``at`` ends."""
    at += 1
    while at < len(text) and text[at] != '"':
        at += 2 if text[at] == "\\" else 1
    if at >= len(text):
        raise ValueError('expected a closing "')
    return at


def _end_of_path(text: str, at: int) -> int:
    """Return where the <path> of a descriptor ends: before a comma, or at the end."""
    end = text.find(">", at)
    while end >= 0 and text[end + 1 : end + 2] not in ("", ",", ")", " ", "("):
        end = text.find(">", end + 1)
    if end < 0:
        raise ValueError("expected > after a path")
    return end


def number(text: str, words: Mapping[str, int] | None = None) -> int:
    """Return an argument as a number: digits, NULL, a descriptor, or words joined by |.

    :raises ValueError: it is none
    """
    text = text.partition("/*")[0].strip()
    if text == "NULL":
        return 0
    plain = _NUMBER.match(text)
    if plain is not None and (plain.end() == len(text) or text[plain.end()] in "<("):
        return signed(int(plain[0], 0) if plain[0].lower().find("x") > 0 else int(plain[0]))
    if words is None:
        raise ValueError("expected a number")
    value = 0
    for word in text.split("|"):
        word = word.strip()
        if word in words:
            value |= words[word]
        elif _NUMBER.fullmatch(word):
            value |= int(word, 0)
        elif not _OTHER_WORD.fullmatch(word):
            raise ValueError(f"expected flags, not {word[:20]}")
    return signed(value)


def signed(value: int) -> int:
    """Return a 64-bit pattern as the kernel's long.

    :raises ValueError: it has more bits
    """
    if not -(1 << 63) <= value < 1 << 64:
        raise ValueError("expected a number of 64 bits")
    return value - (1 << 64) if value >> 63 > 0 else value


def path_of(text: str) -> str:
    """Return the path that -y prints behind a descriptor, "" if there is none."""
    start = text.find("<")
    if start < 0 or not text[:start].strip().lstrip("-").isdigit():
        return ""
    return text[start + 1 : text.rfind(">")]


def field(text: str, name: str) -> str:
    """Return the value of ``name=`` among arguments or in a structure, "" without."""
    found = re.search(rf"\b{name}=([^,}}\s)]+)", text)
    return found[1] if found is not None else ""


def arguments(call: int, text: str) -> tuple[int, ...]:
    """Return the six arguments of a recorded call; strings and structures are 0.

    :raises ValueError: a number that is needed is none
    """
    words = _WORDS.get(call)
    if call in (k.CALL_CLONE, k.CALL_CLONE3):
        return (number(field(text, "flags") or "0", words), 0, 0, 0, 0, 0)
    if call in (k.CALL_EXECVE, k.CALL_EXECVEAT, k.CALL_USERFAULTFD, k.CALL_PROCESS_MADVISE):
        return (0,) * 6
    values = []
    for one in split_arguments(text)[:6]:
        if call == k.CALL_MBIND and one.startswith("["):
            values.append(int(one != "[]"))  # there are nodes: which ones is not told
            continue
        opaque = one[:1] in ('"', "[", "{", "&") or one.startswith(("AT_FDCWD", "IPC_", "\\x"))
        values.append(0 if opaque else number(one, words or {}))
    return tuple([*values, 0, 0, 0, 0, 0, 0][:6])
