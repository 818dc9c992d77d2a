"""The matrix of mutations: who is chosen, what is passed over, what is kept, what is told."""

import json
from pathlib import Path

import pytest

from spfreplay import cli
from spfreplay.errors import CannotError, TraceError
from spfreplay.explore import Budget
from spfreplay.mutants import CAUGHT, SILENT, UNDECIDED, MatrixOptions, mutant_matrix
from spfreplay.mutants import hunt as hunting
from spfreplay.mutants.corpus import is_costly, litmus_corpus
from spfreplay.mutants.hunt import BEYOND, Hunt, hunt, order, surveyed
from spfreplay.mutants.judgement import as_predicted, contradiction, counts, exit_code
from spfreplay.mutants.ledger import Ledger
from spfreplay.mutants.selection import all_mutants, select
from spfreplay.mutants.survey import Settings, operations_of, survey
from spfreplay.mutants.values import Row, plain_row, row_of
from spfreplay.mutations import MUTATIONS, PAIRS, PatchError
from spfreplay.mutations.changed import ANYTHING, changed_functions
from spfreplay.mutations.entered import entered_functions, reachable_functions
from spfreplay.mutations.settled import SETTLED, Settled
from spfreplay_reference.contract import OP_ACCESS, OP_MLOCK, OP_MUNMAP

LITMUS = Path(__file__).parents[2] / "traces" / "litmus"
SETTINGS = Settings()


def litmus(*stems):
    return tuple(str(LITMUS / f"{stem}.txt") for stem in stems)


FEW = litmus("munmap-fault", "mlock-fault", "mprotect-none-read")


def ids(*wanted):
    return [one.id for one in select(wanted)]


# -- which -----------------------------------------------------------------------


def test_all_are_every_mutation_and_every_pair_once():
    found = [one.name for one in all_mutants()]
    assert len(found) == len(set(found)) == len(MUTATIONS) + len(PAIRS)
    assert select(()) == all_mutants()


def test_ids_aliases_patterns_and_protocols_name_mutations():
    assert ids("M50") == ids("B01") == ids("spf-fixed+M50") == ids("spf-fixed+B01") == ["M50"]
    assert ids("M50*") == ["M50", "M50s"]
    assert ids("W03", "M5?") == ids("M5?", "W03", "M54")
    assert ids("M54+W03") == ids("spf-fixed+M54+W03") == ["M54+W03"]


def test_a_combination_that_nobody_predicted_is_a_mutation_without_a_prediction():
    (one,) = select(["M13+M50"])
    assert (one.name, one.predicted) == ("spf-fixed+M13+M50", "")


@pytest.mark.parametrize("wanted", ["Q1", "Q*", "M15", "spf-v13+M50", "M54+M54", ""])
def test_what_names_none_is_refused(wanted):
    with pytest.raises(PatchError):
        select([wanted])


def test_without_a_corpus_it_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(CannotError, match=f"no litmus corpus in {tmp_path}"):
        litmus_corpus(tmp_path)


def test_a_trace_says_itself_that_it_costs_too_much():
    slow, sampled, usual = litmus("cow-cow", "fork-stale-tlb", "munmap-fault")
    assert [is_costly(each) for each in (slow, sampled, usual)] == [True, True, False]
    assert [is_costly(each, slow=True) for each in (slow, sampled)] == [False, True]
    assert not is_costly("nowhere.txt")


# -- what a mutation can touch ---------------------------------------------------


def test_changed_functions_are_those_of_the_edits():
    assert changed_functions("spf-fixed+M50", "spf-fixed") == {"pte_map_lock"}
    assert changed_functions("spf-fixed+M54+W07", "spf-fixed") == {
        "vma_has_changed",
        "mlock_fixup",
    }
    assert changed_functions("spf-fixed", "spf-fixed") == set()


def test_a_defect_put_back_changes_what_its_fix_changed():
    fixed = changed_functions("spf-v11+fix-fork-sections", "spf-v11")
    assert changed_functions("spf-fixed+spf19-fork-stale-tlb", "spf-fixed") == fixed


@pytest.mark.parametrize("stem", ["munmap-fault", "mlock-fault", "mremap-source-read"])
def test_what_is_entered_could_be_entered(stem):
    (window,) = survey(*litmus(stem), "spf-fixed", SETTINGS).windows
    found = hunting.parts_of(*litmus(stem), "spf-fixed", SETTINGS)
    operations = {op for _, _, case in found.explored for op in operations_of(case)}
    assert window.complete
    assert window.entered <= reachable_functions("spf-fixed", operations)
    assert {"get_vma", "spf_check_vma"} <= window.entered


def test_reachable_is_by_operation():
    assert "mlock_fixup" not in reachable_functions("spf-fixed", [OP_ACCESS, OP_MUNMAP])
    assert "mlock_fixup" in reachable_functions("spf-fixed", [OP_ACCESS, OP_MLOCK])


def test_functions_are_as_they_were_after_they_were_watched():
    first = survey(FEW[0], "spf-fixed", SETTINGS)
    with entered_functions("spf-fixed") as entered:
        pass
    assert entered == set()
    assert survey(FEW[0], "spf-fixed", SETTINGS) == first


def findings_without_shortcut(wanted, paths):
    """What each mutation shows in windows that the shortcut would pass over."""
    shown = {}
    for mutant in select(wanted):
        for path in paths:
            trace = surveyed(path, mutant.base, SETTINGS)
            short = Hunt(mutant, SETTINGS)
            if short.touches(trace.serial):
                continue
            everything = Hunt(mutant, SETTINGS._replace(shortcut=False))
            everything.visit(trace)
            assert everything.windows == len(trace.windows)
            for window in trace.windows:
                if not short.touches(window.entered):
                    shown[mutant.id, path] = everything.catches
    return shown


def test_what_is_passed_over_shows_nothing_when_it_is_searched():
    shown = findings_without_shortcut(["W05", "W07", "W16", "M39s"], FEW)
    assert len(shown) > 5
    assert not any(shown.values())


def test_a_survey_that_misses_a_function_is_found_by_that(monkeypatch):
    """The twin: nothing is ever said to be entered."""
    monkeypatch.setattr(Hunt, "touches", lambda self, _: not self.settings.shortcut)
    shown = findings_without_shortcut(["W05", "M50"], FEW)
    assert any(shown.values())


@pytest.mark.slow
@pytest.mark.parametrize("share", range(12))
def test_what_is_passed_over_shows_nothing_in_the_litmus_corpus(share):
    paths = [each for each in litmus_corpus() if not is_costly(each)][share::12]
    assert not any(findings_without_shortcut(["W*", "B13?", "M39n", "M39s"], paths).values())


def test_the_likely_and_the_small_come_first():
    traces = [surveyed(path, "spf-fixed", SETTINGS) for path in FEW]
    changed = changed_functions("spf-fixed+W07", "spf-fixed")
    assert next(order(traces, changed)).path == FEW[1]


# -- what becomes of it ----------------------------------------------------------


def matrix(*wanted, traces=FEW, **options):
    settings = SETTINGS._replace(**options.pop("settings", {}))
    how = MatrixOptions(settings, known_first=False, **options)
    return mutant_matrix(select(wanted), traces, how)


@pytest.fixture(scope="module")
def found():
    return matrix("M50", "W05", "W07", "M31")


def verdicts(found):
    return {row.mutant.id: row.verdict for row in found.rows}


def test_a_matrix_says_caught_and_silent(found):
    assert verdicts(found) == {
        "M31": SILENT,
        "M50": CAUGHT,
        "W05": CAUGHT,
        "W07": SILENT,
    }
    silent = {
        row.mutant.id: (row.complete, row.untouched) for row in found.rows if not row.catch
    }
    assert silent == {"M31": (3, 0), "W07": (1, 2)}


def test_a_witness_is_what_replay_performs(found, capsys):
    catch = next(row.catch for row in found.rows if row.mutant.id == "M50")
    where = ["--window", catch.window, "--schedule", catch.schedule]
    code = cli.main(["replay", catch.path, "--protocol", "spf-fixed+M50", *where])
    assert code == 1
    assert "DIVERGED" in capsys.readouterr().out


@pytest.mark.slow
def test_processes_make_no_difference(found):
    assert matrix("M50", "W05", "W07", "M31", jobs=2).rows == found.rows


def test_a_matrix_is_taken_up_again(found, tmp_path, monkeypatch):
    ledger = tmp_path / "ledger"
    assert matrix("M50", "W05", ledger=ledger).rows == found.rows[1:3]
    ledger.write_text(ledger.read_text() + '{"key": "cut o')
    done = []
    monkeypatch.setattr(
        "spfreplay.mutants.matrix.hunt", lambda *item: done.append(item) or hunt(*item)
    )
    assert matrix("M50", "W05", "W07", "M31", ledger=ledger).rows == found.rows
    assert [item[0].id for item in done] == ["M31", "W07"]


@pytest.mark.slow
def test_another_seed_is_another_matrix(tmp_path):
    ledger = tmp_path / "ledger"
    matrix("W07", ledger=ledger)
    keys = {json.loads(line)["key"] for line in ledger.read_text().splitlines()[1:]}
    matrix("W07", ledger=ledger, settings={"seed": 1})
    again = [json.loads(line)["key"] for line in ledger.read_text().splitlines()[1:]]
    assert len(again) == len(set(again)) == 2 * len(keys)


def test_a_file_that_is_no_ledger_is_refused(tmp_path):
    path = tmp_path / "letter"
    path.write_text("Dear Linus,\n")
    with pytest.raises(TraceError, match="expected 'spfreplay mutants 1'"):
        Ledger(path, ())


def test_rows_travel_as_json(found):
    for row in found.rows:
        assert row_of(json.loads(json.dumps(plain_row(row)))) == row


def test_an_interrupt_keeps_what_is_known(found, monkeypatch):
    def interrupted(mutant, *rest):
        if mutant.id == "W05":
            raise KeyboardInterrupt
        return hunt(mutant, *rest)

    monkeypatch.setattr("spfreplay.mutants.matrix.hunt", interrupted)
    cut = matrix("M50", "W05", "W07", "M31")
    assert cut.interrupted
    assert cut.rows == found.rows[:2]


def test_when_the_time_is_over_the_rest_is_undecided():
    late = matrix("M50", "W07", seconds=0.0)
    assert verdicts(late) == {"M50": UNDECIDED, "W07": UNDECIDED}
    assert {row.why for row in late.rows} == {("the time was over",)}


def test_what_is_only_sampled_is_not_silent():
    row = matrix("M31", traces=FEW[:1], settings={"steps": 60}).rows[0]
    assert (row.verdict, row.sampled) == (UNDECIDED, 1)
    assert "is only sampled" in row.why[0]


def test_a_costly_trace_catches_and_acquits_nobody():
    traces = litmus("munmap-fault", "cow-zero-page")
    row = matrix("M31", traces=traces, settings={"steps": 20_000}).rows[0]
    assert (row.verdict, row.complete, row.sampled) == (SILENT, 1, 1)


def test_a_bug_that_leads_out_of_the_model_is_undecided(monkeypatch):
    def explored(*_, **__):
        raise KeyError("vma")

    monkeypatch.setattr(hunting, "explored", explored)
    row = matrix("M50", traces=FEW[:1]).rows[0]
    assert row.verdict == UNDECIDED
    assert "the model cannot go on: KeyError: 'vma'" in row.why[0]
    assert AssertionError not in BEYOND


def test_everything_is_all_that_is_seen():
    row = matrix("M50", settings={"everything": True}).rows[0]
    assert {Path(catch.path).stem for catch in row.catches} == {
        "munmap-fault",
        "mprotect-none-read",
    }
    assert row.catch.events == 2


def test_what_the_base_shows_itself_is_no_catch():
    """M60 is a change of spf-v11, which shows defects of its own there."""
    row = matrix("M60", traces=litmus("munmap-fault-last-in-table")).rows[0]
    assert row.verdict == SILENT


# -- against what is known -------------------------------------------------------


def test_predictions():
    assert as_predicted("KILL", CAUGHT) and as_predicted("EQUIV", SILENT)
    assert as_predicted("KILL", SILENT) is as_predicted("EQUIV", CAUGHT) is False
    assert as_predicted("KILL", SILENT, litmus=False) is None
    assert as_predicted("EQUIV", CAUGHT, litmus=False) is False
    assert as_predicted("ARCH", SILENT) is as_predicted("KILL", UNDECIDED) is None


def row_of_kind(verdict, id_="M50"):
    return Row(select([id_])[0], verdict)


def test_a_check_in_ci_wants_what_was_settled(monkeypatch):
    monkeypatch.setitem(SETTLED, "M50", Settled("munmap-fault", "PTE_OUTSIDE_VMA"))
    caught, silent, unsure = map(row_of_kind, (CAUGHT, SILENT, UNDECIDED))
    here, elsewhere = ("x/munmap-fault.txt",), ("other.txt",)
    assert exit_code([caught], here) == exit_code([silent], elsewhere) == 0
    assert exit_code([silent], here) == 1
    assert exit_code([caught, unsure], here) == 4
    assert exit_code([silent], elsewhere, "caught") == 4
    monkeypatch.setitem(SETTLED, "M50", Settled())
    assert exit_code([caught, unsure], elsewhere) == 1
    assert contradiction(caught, ()) == "settled as silent, and caught"


def test_counts():
    rows = [row_of_kind(CAUGHT), row_of_kind(CAUGHT, "M31"), row_of_kind(UNDECIDED, "W07")]
    found = counts(rows)
    assert (found.caught, found.silent, found.undecided, found.refuted) == (2, 0, 1, 1)
    assert found.planned == found.caught + found.undecided + found.out_of_scope


# -- the search ------------------------------------------------------------------


def test_enough_ends_a_search_at_once():
    from explore_toys import WINDOWS, Toy

    from spfreplay.explore import explore
    from spfreplay.explore.exploration import ENOUGH

    everything = explore(Toy(*WINDOWS["spin"]), budget=Budget())
    asked = []

    def enough(outcome):
        asked.append(outcome)
        return len(asked) == 2

    found = explore(Toy(*WINDOWS["spin"]), budget=Budget(), enough=enough)
    assert (found.stopped, found.complete, found.resume) == (ENOUGH, False, "")
    assert list(found.outcomes) == asked == list(everything.outcomes)[:2]


# -- the command -----------------------------------------------------------------


def run(capsys, *arguments):
    code = cli.main(["mutants", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_tells_rows_and_numbers(capsys):
    code, out, _ = run(capsys, "-q", "-j1", "-m", "M50", "-m", "W07", "--from-scratch", *FEW)
    assert code == 0
    assert "spfreplay mutants: 2 mutations, 3 traces" in out
    assert "W07: silent: 1 window searched completely, 2 that it cannot touch" in out
    assert "caught 1, silent 1, undecided 0" in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_command_tells_json(capsys):
    arguments = ["-q", "-j1", "-m", "M50", "--from-scratch", "--format", "json", *FEW[:1]]
    code, out, _ = run(capsys, *arguments)
    (result,) = json.loads(out)["results"]
    (row,) = result["rows"]
    assert (code, row["verdict"], row["as_predicted"]) == (0, CAUGHT, True)
    assert "cpu" not in row
    assert row["catches"][0]["oracle"] in ("invariants", "history")


def test_a_mutation_that_is_not_caught_can_be_required(capsys):
    arguments = ["-q", "-j1", "-m", "W07", "--from-scratch", FEW[0]]
    assert run(capsys, *arguments)[0] == 0
    assert run(capsys, *arguments, "--require", "caught")[0] == 4


def test_show_tells_source_diff_and_columns(capsys):
    code, out, _ = run(capsys, "show", "-q", "M50", FEW[0])
    assert code == 0
    for part in (
        "M50: pte_map_lock(): nobody looks at the VMA behind the lock",
        "source    v11 19/26",
        "-        changed = yield from vma_has_changed(vmf)",
        "T1 (munmap 20000000)",
        "--protocol spf-fixed+M50",
    ):
        assert part in out


def test_a_trace_may_be_called_show(capsys, tmp_path, monkeypatch):
    (tmp_path / "show").write_text(Path(FEW[0]).read_text())
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "-q", "-j1", "-m", "M50", "--from-scratch", "./show")
    assert (code, "1 trace" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["-m", "Q1"], 2, "no patch 'Q1'"),
        (["show", "Q1"], 2, "no patch 'Q1'"),
        (["-m", "M50", "/nowhere.txt"], 3, "/nowhere.txt"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, code, complaint):
    found, out, err = run(capsys, *arguments)
    assert (found, out) == (code, "")
    assert complaint in err


def test_the_list_has_every_mutation_and_what_is_out_of_scope(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    for one in all_mutants():
        assert f"\n  {one.id} " in out
    assert "Out of scope" in out
    assert run(capsys, "list", "--counts")[1] == "".join(out.splitlines(keepends=True)[-2:])
    told = json.loads(run(capsys, "list", "--format", "json")[1])["results"][0]
    assert len(told["mutations"]) == len(all_mutants())
    assert ANYTHING
