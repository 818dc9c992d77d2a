"""Every patch leaves a protocol that can be built, and keeps its style."""

import builtins
from types import CodeType

import pytest
from test_announcements import shape_errors

from spfreplay.mm import build as builder
from spfreplay.mm import locking
from spfreplay.mm.build import sources_of
from spfreplay.mm.patching import Protocol
from spfreplay.mutations import MUTATIONS, PAIRS, build, protocol
from spfreplay.mutations.patch import hunk
from spfreplay.protocols import definitions

NAMES = [
    *(one.name for one in definitions().values() if not one.reference),
    *(f"{patch.base}+{patch.id}" for patch in MUTATIONS),
    *(pair.name for pair in PAIRS),
]
#: those that the default run builds
FEW = ["spf-fixed", "spf-fixed+M54+W03", "spf-fixed+M47s", "spf-fixed+M39", "spf-v11+M18"]


def unknown_names(namespace):
    """What functions of a build read that nobody defines."""
    found = set()
    for function in namespace.functions().values():
        codes = [function.__code__]
        while codes:
            code = codes.pop()
            codes += [each for each in code.co_consts if isinstance(each, CodeType)]
            found |= set(code.co_names) - vars(namespace).keys() - vars(builtins).keys()
    return found


#: what can be done with a lock, though v11 does not do all of it
LOCKS = {
    name for each in vars(locking).values() if isinstance(each, type) for name in vars(each)
}
#: attributes: what a function of v11 reads is one of its objects', or a name
KNOWN = {form: unknown_names(build("spf-v11", form)) | LOCKS for form in ("straight", "window")}


def check(name):
    for form, known in KNOWN.items():
        assert unknown_names(build(name, form)) - known == set(), form
    assert list(shape_errors(sources_of(protocol(name)))) == []


@pytest.mark.parametrize("name", FEW)
def test_a_protocol_is_built_in_both_forms(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_protocol_is_built_in_both_forms(name):
    check(name)


def test_a_name_that_nobody_defines_is_found():
    """The twin."""
    edit = hunk("spf_lock", "pte_unmap_same", "-    return 0\n+    return VM_FAULT_NOTHING")
    broken = builder.build(Protocol("broken", (edit,)), "window")
    assert unknown_names(broken) - KNOWN["window"] == {"VM_FAULT_NOTHING"}
