"""Names of protocols, and what each patch says of itself."""

import re

import pytest

from spfreplay.engines import EngineOptions, make_engine
from spfreplay.mm.build import SPF_V11
from spfreplay.mm.patching import place_of
from spfreplay.mutations import (
    ALIASES,
    BASES,
    FIXES,
    MUTATIONS,
    NOT_HERE,
    PATCHES,
    PatchError,
    build,
    find,
    mutated,
    protocol,
    protocol_digest,
    unified_diff,
)
from spfreplay.oracles import OUTCOMES
from spfreplay.trace.events import Tables


def on_its_base(patch):
    return "+".join((patch.base if patch in MUTATIONS else "spf-v11", patch.id))


def test_the_protocol_as_it_stands_needs_no_patch():
    assert protocol("spf-v11") is SPF_V11


def test_fixed_is_v11_and_every_fix():
    assert protocol("spf-fixed").edits == tuple(e for fix in FIXES for e in fix.edits)


@pytest.mark.parametrize("form", ["straight", "window"])
def test_a_name_is_built_once(form):
    assert build("spf-fixed+M54", form) is build("spf-fixed+M54", form)


def test_patches_add_up():
    both = protocol("spf-v11+M54+M50").edits
    assert both == protocol("spf-v11+M54").edits + protocol("spf-v11+M50").edits


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("v13", "no protocol called 'v13'; there are spf-v11, spf-fixed"),
        ("spf-fixed+M99", "no patch called 'M99'"),
        ("spf-fixed+", "no patch called ''"),
        ("spf-fixed+M54+M54", "M54 is there twice"),
    ],
)
def test_a_name_of_nothing_is_refused(name, complaint):
    with pytest.raises(PatchError, match=re.escape(complaint)):
        protocol(name)


def test_mutated_takes_the_base_that_the_patch_is_meant_for():
    assert mutated(None, ["M50"]) == "spf-fixed+M50"
    assert mutated(None, ["M60", "M50"]) == "spf-v11+M60+M50"
    assert mutated("spf-v11", ["M50"]) == "spf-v11+M50"
    assert mutated(None, []) == "spf-v11"


def test_an_alias_is_the_same_patch():
    assert find("B01") is find("M50")
    assert protocol_digest("spf-fixed+B01") == protocol_digest("spf-fixed+M50")


def test_an_engine_is_made_by_name():
    engine = make_engine("spf-fixed+M50", Tables(), EngineOptions(form="window"))
    access = engine.kernel  # the speculative one
    assert access is not None
    assert engine._protocol == protocol("spf-fixed+M50")
    with pytest.raises(PatchError):
        make_engine("v13", Tables())


def test_a_diff_shows_what_a_patch_changes():
    shown = unified_diff("spf-fixed+M50")
    assert shown.startswith("--- a/spfreplay/mm/spf_lock.py\n+++ b/spfreplay/mm/spf_lock.py\n")
    assert [line for line in shown.splitlines() if re.match(r"[-+] ", line)] == [
        "-        changed = yield from vma_has_changed(vmf)",
        "-        if changed:",
        "-            yield UNLOCK, ptl, PTL",
        "-            ptl.ptl.unlock(task)",
        "-            vmf.reason = SPF_CHANGED_PTL",
        "-            break",
    ]


def test_digests_tell_protocols_apart():
    names = ["spf-v11", *map(on_its_base, PATCHES.values()), "spf-fixed"]
    digests = [protocol_digest(name) for name in names]
    same = {
        name for name, digest in zip(names, digests, strict=True) if digests.count(digest) > 1
    }
    assert same == set()


# -- each patch ---------------------------------------------------------------


@pytest.mark.parametrize("patch", PATCHES.values(), ids=lambda patch: patch.id)
def test_a_patch_says_where_it_comes_from(patch):
    assert patch.title
    assert patch.source
    assert patch.base in BASES
    assert bool(patch.edits) or bool(patch.without)
    assert set(patch.without) <= {fix.id for fix in FIXES}
    assert set(patch.prediction.outcomes) <= set(OUTCOMES)
    assert patch.prediction.kind != "KILL" or patch.prediction.outcomes
    assert not patch.prediction.outcomes or patch.prediction.kind not in ("EQUIV", "FIX")
    assert re.fullmatch(r"fix-[a-z-]+|[MWB]\d\d[a-z]*\d?|[a-z]+\d\d-[a-z-]+", patch.id)


def test_every_id_is_there_once():
    ids = [patch.id for patch in (*FIXES, *MUTATIONS)] + list(ALIASES)
    ids += [each for row in NOT_HERE for each in (row.id, *row.aliases)]
    assert len(ids) == len(set(ids))


def test_an_anchor_that_has_moved_is_noticed():
    """The twin of all builds: what the source no longer says cannot be patched."""
    edit = find("M54").edits[0]
    lines = ["def vma_has_changed(vmf):", "    return True"]
    with pytest.raises(Exception, match="0 places, not one"):
        place_of(lines, edit)
