"""Each known defect takes the finding that it was made for, and no other."""

from dataclasses import replace

import pytest

from spfreplay.known_defects import (
    ENDLESS_FETCH,
    SIGNAL,
    V11,
    Evidence,
    known_defect,
    known_defects_of,
)
from spfreplay.mm.build import build
from spfreplay.oracles import OUTCOMES
from spfreplay.pipeline import diff_trace
from spfreplay.trace.container import open_trace
from spfreplay_reference import contract as c

ACCESS = c.OP_ACCESS

#: a finding of each rule of V11, in its order
OF_EACH = (
    Evidence("UAF_PT", "handle_pte_fault", "pmd table", [ACCESS, c.OP_MUNMAP]),
    Evidence("UAF_PT", "pte_alloc", "pmd table", [ACCESS, c.OP_MUNMAP]),
    Evidence("PT_LEAK", "", "mm 0: ...", [ACCESS, c.OP_MREMAP], {"do_anonymous_page"}),
    Evidence("KERNEL_BUG", "set_collapsed_pmd", "...", [ACCESS, c.OP_COLLAPSE], {"pte_alloc"}),
    Evidence("UAF_PT", "do_anonymous_page", "pmd table", [ACCESS, c.OP_MUNMAP]),
    Evidence("WILD_PT", "pte_map_lock", "nothing (a PMD that is none)", [ACCESS, c.OP_MUNMAP]),
    Evidence("UAF_PT", "migration_entry_wait", "PTE table", [ACCESS, c.OP_MIGRATE]),
    Evidence("UAF_ANON", "do_swap_page", "anon_vma", [ACCESS, c.OP_MPROTECT]),
    Evidence("WILD_SWAP", "swap_ra_info", "...", [ACCESS, c.OP_MUNMAP]),
    Evidence("UAF_OBJ", "alloc_page_vma", "Policy", [ACCESS, c.OP_MBIND]),
    Evidence("WRONG_INDEX", "", "...", [ACCESS, c.OP_MPROTECT], {"__page_add_new_anon_rmap"}),
    Evidence("LIVELOCK", "", "T2 goes on", [ACCESS, c.OP_MPROTECT], wrong=ENDLESS_FETCH),
    Evidence("STATE", "", "", [ACCESS, c.OP_MPROTECT], {"spf_check_vma"}, SIGNAL),
    Evidence("STATE", "", "", [ACCESS, ACCESS, c.OP_FORK], {"access"}),
    Evidence("STATE", "", "", [ACCESS, c.OP_MREMAP], {"dontunmap_complete"}),
    Evidence("STATE", "", "", [ACCESS, c.OP_MREMAP]),
    Evidence("ODD_SEQUENCE", "", "", [c.OP_MADVISE, c.OP_MADVISE], {"vm_write_begin"}),
    Evidence("WRITE_RO", "", "", [ACCESS, c.OP_MADVISE, c.OP_NUMA_HINT]),
)


def test_there_is_a_finding_for_each_rule():
    assert len(OF_EACH) == len(V11)
    found = [(n, rule.slug) for n, rule in enumerate(V11) if not rule.fits(OF_EACH[n])]
    assert found == []


@pytest.mark.parametrize("n", range(len(V11)), ids=lambda n: f"{n}-{V11[n].slug}")
def test_a_finding_is_of_the_rule_that_it_was_made_for(n):
    assert next(rule for rule in V11 if rule.fits(OF_EACH[n])) is V11[n]


@pytest.mark.parametrize("n", range(len(V11)), ids=lambda n: f"{n}-{V11[n].slug}")
def test_no_rule_takes_a_finding_of_another_kind(n):
    rule, found = V11[n], OF_EACH[n]
    others = [found._replace(outcome=outcome) for outcome in set(OUTCOMES) - set(rule.outcomes)]
    if rule.places:
        others.append(found._replace(place="another_function"))
    if rule.objects:
        others.append(found._replace(what="UserfaultfdCtx"))
    if rule.operations:
        calls = [op for op in found.operations if op not in rule.operations]
        others.append(found._replace(operations=[*calls, c.OP_MLOCK]))
        one = next(op for op in found.operations if op in rule.operations)
        few = [*calls, *[one] * (rule.least - 1)]
        others.append(found._replace(operations=few))
    if rule.only:
        others.append(found._replace(operations=[*found.operations, c.OP_MPROTECT]))
    if rule.deciding:
        others.append(found._replace(deciding={"another_function"}))
    if rule.wrong:
        others.append(found._replace(wrong=""))
    assert [other for other in others if rule.fits(other)] == []


@pytest.mark.parametrize("n", range(len(V11)), ids=lambda n: f"{n}-{V11[n].slug}")
def test_a_rule_asks_for_more_than_the_outcome_where_others_have_it_too(n):
    """Without any of its conditions a rule would take findings of other rules."""
    bare = replace(V11[n], places=(), objects=(), operations=(), only=(), deciding=(), wrong="")
    shared = [other for m, other in enumerate(OF_EACH) if m != n and bare.fits(other)]
    assert bool(shared) <= (bare != V11[n])


JUMP = """spfreplay text 1
thread 1 pid=1
thread 2 pid=1
image 0 brk=0x5000
exec mm0 image=0
T1 fork T2 mm0 vm|thread
T1 mmap 0x20000000 16K rwx private|anon|fixed = 0x20000000
T1 write 0x20000000
@100us+3us T2 {verb} 0x20000000
@101us..105us T1 mprotect 0x20000000 16K {rights} = 0
"""


@pytest.mark.parametrize(
    ("verb", "rights", "known"),
    [("fetch", "rw-", ["spf18-nx-fetch-livelock"]), ("fetch", "r-x", []), ("read", "rw-", [])],
)
def test_a_jump_that_mprotect_forbids_meanwhile_is_known(tmp_path, verb, rights, known):
    path = tmp_path / "t.txt"
    path.write_text(JUMP.format(verb=verb, rights=rights))
    orders = diff_trace(open_trace(path)).orders
    assert [race.known for race in orders.races] == known


def test_places_are_functions_of_the_protocol():
    functions = build("spf-v11", "window").functions()
    named = {name for rule in V11 for name in (*rule.places, *rule.deciding) if name}
    assert named - set(functions) == set()


def test_another_protocol_has_none_of_them():
    assert [known_defect("spf-fixed", found) for found in OF_EACH] == [None] * len(OF_EACH)


def slugs(protocol):
    return {each.slug for each in known_defects_of(protocol)}


def test_with_a_fix_a_defect_is_not_known_any_more():
    everything = slugs("spf-v11")
    assert everything - slugs("spf-v11+fix-ksm-test") == {"spf18-ksm-anon-vma-unprotected"}
    assert slugs("spf-fixed") == set()


def test_a_defect_of_three_places_is_known_until_all_are_mended():
    one, three = (
        "spf-v11+fix-shared-free",
        "spf-v11+fix-shared-dontneed+fix-shared-free+fix-shared-numa",
    )
    assert slugs(one) == slugs("spf-v11")
    assert slugs("spf-v11") - slugs(three) == {"aspf22-seq-two-writers"}


def test_nothing_is_known_of_a_protocol_with_a_bug_planted():
    assert slugs("spf-v11+M50") == slugs("spf-v11+fix-ksm-test+M50") == set()
