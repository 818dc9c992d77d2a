"""The access oracle: no step touches what was freed, or what is no table at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from spfreplay.mm.types import AnonVma, MmStruct, Page, PageTable, VmArea

_NAMES: Final = {
    PageTable: "UAF_PT",
    VmArea: "UAF_VMA",
    AnonVma: "UAF_ANON",
    Page: "UAF_PAGE",
    MmStruct: "UAF_OBJ",
}
_LEVELS: Final = ("", "PTE table", "pmd table", "pud table", "pgd table")


def use_after_free(obj: Any) -> tuple[str, str]:
    """Return (outcome, name of the object) of a step on something freed."""
    return _NAMES.get(obj.__class__, "UAF_OBJ"), name_of(obj)


def name_of(obj: Any) -> str:
    """Return a name that is the same in every order of steps."""
    if isinstance(obj, PageTable):
        return _LEVELS[obj.level]
    if isinstance(obj, VmArea):
        return "VMA"
    if isinstance(obj, AnonVma):
        return "anon_vma"
    if isinstance(obj, Page):
        return f"frame {obj.pfn:#x}"
    if obj is None:
        return "nothing (a PMD that is none)"
    if isinstance(obj, int):
        return "a huge page"
    return type(obj).__name__


def place_of(steps: Iterator[Any]) -> str:
    """Return the name of the protocol function that is about to take a step."""
    inner: Any = steps
    while getattr(inner, "gi_yieldfrom", None) is not None:
        inner = inner.gi_yieldfrom
    code = getattr(inner, "gi_code", None)
    return code.co_name if code is not None else ""


def place_of_error(error: Exception) -> str:
    """Return the name of the protocol function that raised, not of the lock's method."""
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/mm/" in code.co_filename and not code.co_filename.endswith("locking.py"):
            place = code.co_name
        trace = trace.tb_next
    return place
