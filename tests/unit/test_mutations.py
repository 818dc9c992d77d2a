"""Names of protocols, and what each patch says of itself."""

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

import spfreplay.mutations
from spfreplay.engines import EngineOptions, make_engine
from spfreplay.mm.build import SPF_V11
from spfreplay.mm.patching import place_of
from spfreplay.mutants.judgement import counts, settled_rows
from spfreplay.mutations import (
    ALIASES,
    FIXES,
    MUTATIONS,
    NOT_HERE,
    PAIRS,
    PATCHES,
    PatchError,
    bases,
    build,
    find,
    mutated,
    protocol,
    protocol_digest,
    unified_diff,
)
from spfreplay.oracles import OUTCOMES
from spfreplay.orders import schedule_digest
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
        ("v13", "no protocol called 'v13'; there are spf-fixed, spf-v11"),
        ("spf-fixed+M99", "no patch 'M99'"),
        ("spf-fixed+", "no patch ''"),
        ("spf-fixed+M54+M54", "M54 is there twice"),
        ("spf-fixed+M54+B03", "M54 is there twice"),
        ("spf-fixed+M03a+M03b", "spf-fixed+M03a+M03b: a patch does not fit: spf.__handle_spec"),
        ("spf-v11+W03", "spf-v11+W03: a patch does not fit: munmap.unmap_region: 0 places"),
        ("spf-fixed+M05", "M05 has variants: M05a, M05b"),
        ("spf-fixed+M15", "M15 (protection keys) is not here: they have no model"),
        ("spf-fixed+B33", "M56 (read barrier of vma_has_changed()) is not here: the model is"),
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


@pytest.mark.parametrize(("alias", "ids"), ALIASES.items())
def test_an_alias_is_the_same_patch(alias, ids):
    base = find(ids.split("+")[0]).base
    assert protocol(f"{base}+{alias}").edits == protocol(f"{base}+{ids}").edits


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
    names = ["spf-v11", "spf-fixed"]
    names += [*map(on_its_base, MUTATIONS), *(pair.name for pair in PAIRS)]
    digests = {protocol_digest(name): name for name in names}
    assert sorted(digests.values()) == sorted(names)


def test_a_schedule_belongs_to_the_source_of_its_protocol():
    def digest(name):
        return schedule_digest(SimpleNamespace(sha256=""), (1, 2), EngineOptions(protocol=name))

    assert digest("spf-fixed+M54") == digest("spf-fixed+B03")
    assert digest("spf-v11-file-faults") != digest("spf-v11")
    assert len({digest(name) for name in ("spf-v11", "spf-fixed", "spf-fixed+M54")}) == 3


# -- each patch ---------------------------------------------------------------


@pytest.mark.parametrize("patch", PATCHES.values(), ids=lambda patch: patch.id)
def test_a_patch_says_where_it_comes_from(patch):
    assert patch.title
    assert patch.source
    assert patch.base in bases()
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


def rows():
    """The ids of the catalogue of races: M01 to M60, W01 to W25, B01 to B38."""
    unused = {"M48", "M49"}
    counts = {"M": 60, "W": 25, "B": 38}
    every = {f"{kind}{n:02}" for kind, last in counts.items() for n in range(1, last + 1)}
    return every - unused


def test_every_row_of_the_catalogue_of_races_is_a_patch_or_has_a_reason():
    known = PATCHES.keys() | ALIASES.keys()
    known |= {each for row in NOT_HERE for each in (row.id, *row.aliases)}
    assert rows() - {each[:3] for each in known} == set()


@pytest.mark.parametrize("patch", MUTATIONS, ids=lambda patch: patch.id)
def test_a_patch_fits_its_base_and_changes_it(patch):
    name = on_its_base(patch)
    shown = unified_diff(name)
    assert shown
    for edit in patch.edits:
        assert f"+++ b/spfreplay/mm/{edit.module}.py" in shown


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_a_pair_is_of_patches_for_its_base(pair):
    assert {find(each).base for each in pair.ids} == {pair.base}
    assert protocol(pair.name)


def test_the_readme_counts_what_there_is():
    readme = (Path(spfreplay.mutations.__file__).parent / "README.md").read_text()
    told = [int(n) for n in re.findall(r"^\| .* \| (\d+) \| .*\|$", readme, re.MULTILINE)]
    kinds = Counter(patch.prediction.kind for patch in MUTATIONS)
    predicted = [kinds[kind] for kind in ("KILL", "KILL(access)", "EQUIV", "ARCH")]
    became = counts(settled_rows())
    assert became.undecided == 0
    assert told == [
        *(len(FIXES), len(MUTATIONS), *predicted, len(PAIRS), len(NOT_HERE)),
        *(became.planned, became.caught, became.silent, became.refuted, became.out_of_scope),
    ]
    assert sum(predicted) == len(MUTATIONS)
