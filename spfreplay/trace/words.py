"""The words of the text form: every value as a person would write it.

Each :class:`Kind` writes an integer as one token and reads it back to the
same integer, whatever it is: what has no word is written in hex.  Parsers
raise ``ValueError`` saying what was expected.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from spfreplay.trace import events as ev
from spfreplay_reference import contract as c

_U64: Final = (1 << 64) - 1
_UNITS: Final = {"K": 10, "M": 20, "G": 30, "T": 40}
_TIMES: Final = {"": 1, "ns": 1, "us": 1000, "ms": 10**6, "s": 10**9}
_NUMBER: Final = re.compile(r"(-?)(0[xX][0-9a-fA-F_]{1,40}|[0-9][0-9_]{0,40})([KMGT]?)")
_TIME: Final = re.compile(r"(-?)([0-9][0-9_]{0,30})(?:\.([0-9]{1,9}))?(ns|us|ms|s|)")
_BARE: Final = re.compile(r"[A-Za-z0-9_./:+@%*()\[\]<>-]+")


class Kind(NamedTuple):
    """How one sort of value is written and read."""

    write: Callable[[int], str]
    read: Callable[[str], int]


# -- numbers ----------------------------------------------------------------


def read_number(text: str) -> int:
    """Return the integer in ``text``: decimal or hex, K M G T for powers of 1024.

    Bit patterns of 64 bits are returned as the kernel's signed long.
    """
    match = _NUMBER.fullmatch(text)
    if not match:
        raise ValueError("expected a number")
    sign, digits, unit = match.groups()
    try:
        value = int(digits, 16 if digits[1:2] in ("x", "X") else 10)
    except ValueError:  # an underscore at the end
        raise ValueError("expected a number") from None
    value <<= _UNITS.get(unit, 0)
    return to_signed(-value if sign else value)


def to_signed(value: int) -> int:
    """Return a value of up to 64 bits as the signed long of that pattern."""
    if not -(1 << 63) <= value <= _U64:
        raise ValueError("expected a number of 64 bits")
    return value - (1 << 64) if value >> 63 > 0 else value


def write_hex(value: int) -> str:
    """Write an address or pattern."""
    return hex(value & _U64) if value else "0"


def write_size(value: int) -> str:
    """Write a length in bytes, in the largest unit that divides it."""
    for unit in ("M", "K"):
        if value > 0 and not value & ((1 << _UNITS[unit]) - 1):
            return f"{value >> _UNITS[unit]}{unit}"
    return write_hex(value)


ADDRESS: Final = Kind(write_hex, read_number)
SIZE: Final = Kind(write_size, read_number)
COUNT: Final = Kind(str, read_number)


def read_time(text: str) -> int:
    """Return nanoseconds: a number, with a unit (ns us ms s) and decimals."""
    match = _TIME.fullmatch(text)
    if not match or (match[3] and _TIMES[match[4]] == 1):
        raise ValueError("expected a time in ns, or like 3.5us")
    sign, whole, part, unit = match.groups()
    value = int(whole.rstrip("_")) * _TIMES[unit]
    if part:
        value += int(part) * _TIMES[unit] // 10 ** len(part)
    return to_signed(-value if sign else value)


# -- words for bits ---------------------------------------------------------


def flag_words(names: Mapping[str, int]) -> Kind:
    """Return the kind of values written ``one|other``; ``0`` is none."""

    def write(value: int) -> str:
        rest = value & _U64
        words = []
        for name, bits in names.items():
            if rest & bits == bits:
                words.append(name)
                rest &= ~bits
        if rest or not words:
            words.append(write_hex(rest))
        return "|".join(words)

    def read(text: str) -> int:
        value = 0
        for word in text.split("|"):
            bits = names.get(word)
            if bits is None:
                try:
                    bits = read_number(word)
                except ValueError:
                    known = ", ".join(names)
                    raise ValueError(f"expected {known} or a number, joined by |") from None
            value |= bits
        return to_signed(value)

    return Kind(write, read)


def choice_words(names: Mapping[str, int]) -> Kind:
    """Return the kind of values that have one word each, else a number."""
    by_value = {value: name for name, value in names.items()}

    def write(value: int) -> str:
        return by_value.get(value) or str(value)

    def read(text: str) -> int:
        if text in names:
            return names[text]
        try:
            return read_number(text)
        except ValueError:
            raise ValueError(f"expected one of {', '.join(names)}") from None

    return Kind(write, read)


def contract_names(prefix: str, skip: tuple[str, ...] = ()) -> dict[str, int]:
    """Return the constants of the contract that begin with ``prefix``."""
    return {
        name[len(prefix) :].lower(): value
        for name, value in vars(c).items()
        if name.startswith(prefix) and isinstance(value, int) and name not in skip
    }


def _write_prot(value: int) -> str:
    letters = "".join(
        letter if value & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4))
    )
    rest = value & ~7
    return f"{letters}|{_PROT_REST.write(rest)}" if rest else letters


def _read_prot(text: str) -> int:
    letters, _, rest = text.partition("|")
    if not re.fullmatch("[r-][w-][x-]", letters):
        try:
            return read_number(text)
        except ValueError:
            raise ValueError("expected rights like rw-") from None
    value = sum(1 << i for i, letter in enumerate(letters) if letter != "-")
    return to_signed(value | _PROT_REST.read(rest)) if rest else value


_PROT_REST: Final = flag_words({"growsdown": c.PROT_GROWSDOWN, "growsup": c.PROT_GROWSUP})
PROT: Final = Kind(_write_prot, _read_prot)
#: MAP_SHARED_VALIDATE has the bits of shared and private: it goes first.
MAP: Final = flag_words(
    {"shared_validate": c.MAP_SHARED_VALIDATE}
    | contract_names("MAP_", ("MAP_TYPE", "MAP_SHARED_VALIDATE", "MAP_ANONYMOUS"))
    | {"anon": c.MAP_ANONYMOUS}
)
MREMAP: Final = flag_words(contract_names("MREMAP_"))
MLOCK: Final = flag_words(contract_names("MLOCK_"))
MCL: Final = flag_words(contract_names("MCL_"))
CLONE: Final = flag_words(contract_names("CLONE_"))
UFFD: Final = flag_words(contract_names("UFFD_"))
ADVICE: Final = choice_words(contract_names("MADV_"))
POLICY: Final = choice_words(contract_names("MPOL_"))
EXIT: Final = choice_words({"thread": 0, "group": 1})
MEMBER: Final = choice_words({"file": 0, "anon": 1, "swap": 2, "shmem": 3})
EVENT_FLAGS: Final = flag_words(
    {n[3:].lower(): v for n, v in vars(ev).items() if n.startswith("EV_")}
)
#: bits of an error code that the verb does not say
PF_REST: Final = flag_words(contract_names("X86_PF_"))
FILE_KIND: Final = choice_words(contract_names("FILE_", ("FILE_ANON", "FILE_UNKNOWN")))

_PAGE_FLAGS: Final = flag_words(contract_names("PG_"))


def _write_bits(value: int) -> str:
    rest = value & ~c.KIND_MASK
    kind = c.KIND_NAMES[value & c.KIND_MASK]
    return f"{kind}|{_PAGE_FLAGS.write(rest)}" if rest else kind


def _read_bits(text: str) -> int:
    kind, _, rest = text.partition("|")
    if kind not in c.KIND_NAMES:
        raise ValueError(f"expected one of {', '.join(c.KIND_NAMES[:5])}, then |flags")
    return c.KIND_NAMES.index(kind) | (_PAGE_FLAGS.read(rest) if rest else 0)


PAGE_BITS: Final = Kind(_write_bits, _read_bits)


def write_content(content: int, vpn: int) -> str:
    """Write the content of page ``vpn``: ``zero``, ``initial``, ``file:1:17``, ``0x1d``.

    ``initial`` alone is what exec left in this very page.
    """
    if not content:
        return "zero"
    kind = content & (c.CONTENT_FILE | c.CONTENT_INITIAL)
    if kind == c.CONTENT_INITIAL:
        name = content & ~c.CONTENT_INITIAL
        return "initial" if name == vpn else f"initial:{name:#x}"
    if kind == c.CONTENT_FILE:
        return f"file:{content >> 31 & 0xFFFF}:{content & 0x7FFF_FFFF}"
    return hex(content)


def read_content(text: str, vpn: int) -> int:
    """Return the content that :func:`write_content` wrote."""
    word, *numbers = text.split(":")
    try:
        match word, [read_number(number) for number in numbers]:
            case "zero", []:
                return 0
            case "initial", []:
                return c.CONTENT_INITIAL | vpn
            case "initial", [name] if 0 <= name < c.CONTENT_INITIAL:
                return c.CONTENT_INITIAL | name
            case "file", [file, index] if 0 <= file < 1 << 15 and 0 <= index < 1 << 31:
                return c.CONTENT_FILE | file << 31 | index
            case _, []:
                return read_number(word)
    except ValueError:
        pass
    raise ValueError("expected zero, initial, initial:NAME, file:NUMBER:INDEX or a number")


# -- VM_* -------------------------------------------------------------------

#: what the letters of /proc/PID/maps stand for; mappings may get any right
_ALWAYS: Final = c.VM_MAYREAD | c.VM_MAYWRITE | c.VM_MAYEXEC
_SHARED: Final = c.VM_SHARED | c.VM_MAYSHARE
VM_NAMES: Final = contract_names("VM_", ("VM_READ", "VM_WRITE", "VM_EXEC"))


def write_perms(flags: int) -> list[str]:
    """Return ``rw-p`` and then ``+flag`` or ``-flag`` where that says less."""
    perms = "".join(
        letter if flags & bit else "-"
        for letter, bit in (("r", c.VM_READ), ("w", c.VM_WRITE), ("x", c.VM_EXEC))
    ) + ("s" if flags & c.VM_SHARED else "p")
    implied = read_perms(perms)
    words = [perms]
    for sign, bits in (("+", flags & ~implied), ("-", implied & ~flags)):
        for name, bit in VM_NAMES.items():
            if bits & bit:
                words.append(sign + name)
                bits &= ~bit
        if bits:
            words.append(sign + hex(bits))
    return words


def read_perms(text: str) -> int:
    """Return the VM_* that ``rw-p`` implies, MAY* rights included."""
    if not re.fullmatch("[r-][w-][x-][sp]", text):
        raise ValueError("expected rights like rw-p")
    flags = sum(1 << i for i, letter in enumerate(text[:3]) if letter != "-")
    return flags | _ALWAYS | (_SHARED if text[3] == "s" else 0)


#: what mlockall(MCL_FUTURE) gives new mappings
VM_FLAGS: Final = flag_words(VM_NAMES)


def read_vm_flag(text: str) -> int:
    """Return the VM_* bits of a word without its sign."""
    return VM_NAMES[text] if text in VM_NAMES else read_number(text)


# -- results, mm and thread names, strings ----------------------------------


def write_result(value: int, is_address: bool) -> str:
    """Write what a system call returned."""
    if -4096 < value < 0 and -value in errno.errorcode:
        return f"-{errno.errorcode[-value]}"
    return write_hex(value) if is_address and value >= 0 else str(value)


def read_result(text: str) -> int:
    """Return a result: a number or ``-ENAME``."""
    if text.startswith("-E"):
        number = getattr(errno, text[1:], None)
        if not isinstance(number, int):
            raise ValueError("expected a name of errno")
        return -number
    try:
        return read_number(text)
    except ValueError:
        raise ValueError("expected a result: a number or -ENAME") from None


def _write_mm(value: int) -> str:
    return "mm-" if value == c.MM_NONE else f"mm{value}"


def _read_mm(text: str) -> int:
    if text == "mm-":
        return c.MM_NONE
    if not re.fullmatch(r"mm[0-9]{1,10}", text):
        raise ValueError("expected an address space like mm0, or mm-")
    return int(text[2:])


def _read_tid(text: str) -> int:
    if not re.fullmatch(r"T[0-9]{1,10}", text):
        raise ValueError("expected a thread like T1")
    return int(text[1:])


def _write_file(value: int) -> str:
    return {c.FILE_ANON: "anon", c.FILE_UNKNOWN: "?"}.get(value) or str(value)


def _read_file(text: str) -> int:
    if text in ("anon", "?"):
        return c.FILE_ANON if text == "anon" else c.FILE_UNKNOWN
    try:
        return read_number(text)
    except ValueError:
        raise ValueError("expected the number of a file, anon or ?") from None


MM: Final = Kind(_write_mm, _read_mm)
TID: Final = Kind("T{}".format, _read_tid)
FILE: Final = Kind(_write_file, _read_file)


def write_string(text: str) -> str:
    """Write a string as one token, quoted as in JSON where it must be."""
    if _BARE.fullmatch(text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def read_string(text: str) -> str:
    """Return the string that a token stands for."""
    if not text.startswith('"'):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        raise ValueError('expected a string in "..."') from None
    return str(value)
