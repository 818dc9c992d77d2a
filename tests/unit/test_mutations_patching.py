"""Edits of a protocol's source: where they fit, and what is refused."""

import traceback

import pytest

from spfreplay.mm import build
from spfreplay.mm.opening import BuildError
from spfreplay.mm.patching import Edit, Protocol, parsed, patched
from spfreplay.mm.types import Task, VmFault
from spfreplay.mutations.patch import PatchError, hunk

TEXT = """\
X = 1


def f(
    a: int,
) -> int:
    b = a
    if b:
        b += 1
    return b


def g(a: int) -> int:
    b = a
    return b
"""


def after(*edits):
    return patched(TEXT, edits)


def test_lines_are_replaced_in_their_function_only():
    edit = hunk("m", "g", "\n-    b = a\n+    b = -a\n     return b\n")
    assert after(edit) == TEXT.replace("    b = a\n    return", "    b = -a\n    return")


def test_edits_are_made_one_after_the_other():
    first = hunk("m", "g", "\n-    b = a\n+    b = 2 * a\n")
    second = hunk("m", "g", "\n-    b = 2 * a\n+    b = 3 * a\n")
    assert after(first, second) == after(hunk("m", "g", "\n-    b = a\n+    b = 3 * a\n"))


@pytest.mark.parametrize(
    ("function", "text", "complaint"),
    [
        ("f", "-    return a", "m.f: 0 places, not one, look like 'return a'"),
        ("g", "-    if b:", "m.g: 0 places"),
        ("h", "-    return a", "m defines h 0 times"),
        ("", "-    return b", "m: 2 places"),
        ("f", "-  return b", "0 places"),
    ],
)
def test_an_anchor_that_is_not_there_exactly_once_is_refused(function, text, complaint):
    with pytest.raises(BuildError, match=complaint):
        after(hunk("m", function, text))


def test_what_is_no_diff_is_refused():
    with pytest.raises(PatchError, match="no line of a diff"):
        hunk("m", "f", "return b")


def test_an_edit_that_leaves_no_python_is_refused():
    with pytest.raises(BuildError, match=r"m\.py: an edit leaves no Python"):
        parsed(after(hunk("m", "g", "-    return b\n+    return b(")), "m.py")


def test_a_traceback_shows_the_patched_line():
    edit = hunk("spf_lock", "pte_unmap_same", "-    return 0\n+    return 1 // 0")
    functions = build.build(Protocol("broken", (edit,)), "straight")
    with pytest.raises(ZeroDivisionError) as caught:
        functions.pte_unmap_same(VmFault(Task(1, None)))
    last = traceback.extract_tb(caught.tb)[-1]
    assert (last.line, last.filename.split("/")[-1]) == (
        "return 1 // 0",
        "spf_lock.py (broken)",
    )


def test_a_module_that_is_none_of_the_protocols_is_refused():
    strange = Protocol("strange", (Edit("types", "", ("x",), ()),))
    with pytest.raises(BuildError, match="strange edits types, no module"):
        build.build(strange, "window")


def test_a_name_alone_builds_what_stands_there():
    assert build.build("spf-v11", "window") is build.build(build.SPF_V11, "window")
    with pytest.raises(BuildError, match="no edits are known here that make spf-fixed"):
        build.build("spf-fixed", "window")


def test_the_digest_is_of_the_source_not_of_the_name():
    edit = hunk("spf_lock", "pte_unmap_same", "-    return 0\n+    return 1")
    one, other = Protocol("one", (edit,)), Protocol("other", (edit,))
    assert build.protocol_digest(one) == build.protocol_digest(other)
    assert build.protocol_digest(one) != build.protocol_digest(build.SPF_V11)
    assert build.protocol_digest(Protocol("renamed")) == build.protocol_digest(build.SPF_V11)


def test_what_is_said_in_comments_is_no_part_of_the_digest():
    said = hunk(
        "spf_lock",
        "pte_unmap_same",
        "-    vmf.pte = None\n+    # as in the patch\n+    vmf.pte = (\n+        None\n+    )",
    )
    assert build.protocol_digest(Protocol("said", (said,))) == build.protocol_digest(
        build.SPF_V11
    )
