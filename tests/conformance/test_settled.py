"""What the litmus corpus says of every mutation is what it was said to say."""

from pathlib import Path

import pytest

from spfreplay.executors import workers
from spfreplay.mutants import CAUGHT, SILENT, MatrixOptions, mutant_matrix
from spfreplay.mutants.corpus import litmus_corpus
from spfreplay.mutants.hunt import look
from spfreplay.mutants.judgement import as_predicted
from spfreplay.mutants.selection import all_mutants, select
from spfreplay.mutants.survey import Settings
from spfreplay.mutations.settled import SETTLED
from spfreplay.oracles import OUTCOMES

TRACES = {Path(path).stem: path for path in litmus_corpus()}
MUTANTS = {one.id: one for one in all_mutants()}
IN_SEARCH = [id_ for id_, settled in SETTLED.items() if settled.trace]
#: what the default run tries: of each oracle's findings a few
FEW = ["M05b", "M30", "M32a1", "M51", "M52", "M54", "B13a", "W24c", "M10b", "M12+W18"]


def test_every_mutation_is_settled():
    assert list(SETTLED) == list(MUTANTS)


def test_what_is_settled_names_a_trace_and_an_outcome():
    for settled in SETTLED.values():
        assert bool(settled.trace) == bool(settled.outcome)
        assert not settled.trace or settled.trace in TRACES
        assert not settled.outcome or settled.outcome in OUTCOMES


def test_what_is_not_as_predicted_has_a_reason():
    for id_, settled in SETTLED.items():
        mutant = MUTANTS[id_]
        verdict = CAUGHT if settled.trace else SILENT
        otherwise = (
            settled.outcome and mutant.outcomes and settled.outcome not in mutant.outcomes
        )
        if otherwise or as_predicted(mutant.predicted, verdict) is False:
            assert settled.why, id_


def seen(id_):
    """The outcomes that the trace of a mutation shows, as far as the search goes."""
    settled = SETTLED[id_]
    row = look(MUTANTS[id_], TRACES[settled.trace], Settings())
    return set() if row is None else {one.outcome for one in row.sightings}


@pytest.mark.parametrize("id_", FEW)
def test_a_mutation_is_caught_by_its_trace(id_):
    assert SETTLED[id_].outcome in seen(id_)


@pytest.mark.slow
@pytest.mark.parametrize("id_", sorted(set(IN_SEARCH) - set(FEW)))
def test_every_mutation_is_caught_by_its_trace(id_):
    assert SETTLED[id_].outcome in seen(id_)


def test_another_trace_does_not_catch_it():
    """The twin."""
    assert look(MUTANTS["W24c"], TRACES["mlock-fault"], Settings()) is None


def test_the_replies_to_v11_19_26():
    """ALLOW_RETRY left set drops a mmap_sem that nobody holds; file faults need more."""
    locks = look(MUTANTS["M03a"], TRACES["swap-out-read"], Settings())
    assert [str(one) for one in locks.sightings] == ["LOCK_IMBALANCE in lock_page_or_retry()"]
    path = TRACES["munmap-file-last-in-table"]
    (both,) = select(["M08+M36"])
    found = look(both, path, Settings())
    assert {one.outcome for one in found.sightings} == {"PT_LEAK"}
    assert [look(MUTANTS[id_], path, Settings()) for id_ in ("M08", "M36")] == [None, None]


@pytest.mark.slow
def test_what_is_silent_is_silent_in_every_window_of_the_corpus():
    silent = [one for one in MUTANTS.values() if not SETTLED[one.id].trace]
    options = MatrixOptions(jobs=workers(), known_first=False)
    matrix = mutant_matrix(silent, list(TRACES.values()), options)
    assert {row.mutant.id: (row.verdict, row.why) for row in matrix.rows} == {
        one.id: (SILENT, ()) for one in silent
    }
