"""The mutation testing tool, Cosmic Ray: everything that knows it stands here.

Which mutants there are, how one is put into a file of the tree and taken out again, and
the data base of results are the tool's; so ``cosmic-ray dump`` and ``cr-report`` read the
session that is left behind.  Ours is one operator more: the
tool's own never drop a statement, and a lock protocol is all about those.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import parso
from cosmic_ray import plugins
from cosmic_ray.commands import init as create
from cosmic_ray.mutating import mutate_code, use_mutation
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.util import restore_contents
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import (
    MutationSpec,
    TestOutcome,
    WorkerOutcome,
    WorkItem,
    WorkResult,
)
from mutation_judge import TOGETHER
from mutation_scope import MODULES, Name, is_left_out, left_out, name_of

#: what the judge may say first
OUTCOMES = {
    "survived": TestOutcome.SURVIVED,
    "caught": TestOutcome.KILLED,
    "time": TestOutcome.KILLED,
}


class DropStatement(Operator):
    """Replaces a simple statement that is no announcement by ``pass``."""

    def mutation_positions(self, node):
        kept = ("import_from", "import_name", "pass_stmt", "string", "yield_expr")
        if node.type == "simple_stmt" and node.children[0].type not in kept:
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        dropped = parso.parse("pass\n").children[0]
        dropped.get_first_leaf().prefix = node.get_first_leaf().prefix
        return dropped

    @classmethod
    def examples(cls):
        return (Example("x = 1\n", "pass\n"),)


class OurOperators:
    """What Cosmic Ray asks for operators by name."""

    def __iter__(self):
        return iter(("DropStatement",))

    def __getitem__(self, name):
        return {"DropStatement": DropStatement}[name]


plugins.OPERATOR_PROVIDERS["spfreplay"] = OurOperators()


class Mutant(NamedTuple):
    """One item of a session, named."""

    item: WorkItem
    spec: MutationSpec
    name: Name

    @property
    def operator(self) -> str:
        """The tool's name for the kind of change."""
        return self.spec.operator_name.partition("/")[2]


@contextmanager
def session(path: Path) -> Iterator[WorkDB]:
    """Open the session of the mutants of this tree; a new one if there is none."""
    with use_db(str(path)) as database:
        if not database.num_work_items:
            create([source_path(name) for name in MODULES], database, {})
        yield database


def source_path(module: str) -> Path:
    """Return where a module of the protocol stands in a tree."""
    return Path("spfreplay/mm") / f"{module}.py"


def mutants_of(database: WorkDB, modules: Collection[str] = MODULES) -> list[Mutant]:
    """Return the mutants of ``modules`` that are to be judged, in the order of the source."""
    texts = {name: source_path(name).read_text() for name in modules}
    stretches = {name: left_out(text) for name, text in texts.items()}
    items = ((item, item.mutations[0]) for item in database.work_items)
    inside = [
        (item, spec)
        for item, spec in items
        if spec.module_path.stem in modules
        and not is_left_out(spec.start_pos, stretches[spec.module_path.stem])
    ]
    inside.sort(key=lambda pair: place_of(pair[1]))
    named = (named_mutant(item, spec, texts[spec.module_path.stem]) for item, spec in inside)
    return [each for each in named if each is not None]


def place_of(spec: MutationSpec) -> tuple:
    """Return what orders mutants."""
    module = MODULES.index(spec.module_path.stem)
    return module, spec.start_pos, spec.operator_name, spec.occurrence


def named_mutant(item: WorkItem, spec: MutationSpec, text: str) -> Mutant | None:
    """Name a mutant; None if its text is the old one, or no Python (``& not X``)."""
    operator = plugins.get_operator(spec.operator_name)()
    mutated = mutate_code(text, operator, spec.occurrence)
    if mutated is None or mutated == text:
        return None
    try:
        compile(mutated, str(spec.module_path), "exec")
    except SyntaxError:
        return None
    return Mutant(item, spec, name_of(spec.module_path.stem, text, mutated))


def verdicts(database: WorkDB) -> dict[str, str]:
    """Return what the judge said of the mutants that have been judged, by the item's number."""
    return {job: result.output for job, result in database.results if result.output}


def judge(database: WorkDB, mutant: Mutant, ask: Callable[[str], str]) -> str:
    """Put a mutant into its file, ask for the verdict on its module, take it out again.

    :raises RuntimeError: if that is none.
    """
    spec = mutant.spec
    operator = plugins.get_operator(spec.operator_name)()
    with use_mutation(spec.module_path, operator, spec.occurrence):
        said = ask(mutant.name.module)
    if said.partition(":")[0] not in OUTCOMES:
        raise RuntimeError(f"{mutant.name}: {said}")
    note(database, mutant, said)
    return said


def judge_together(database: WorkDB, mutants: list[Mutant], ask: Callable[[str], str]) -> str:
    """Put mutants of different lines into their files, and ask for one verdict on all.

    Noted is only that they survive: who is caught has to be found one by one.

    :raises RuntimeError: if the answer is no verdict.
    """
    with ExitStack() as stack:
        for path, changes in changed_files(mutants).items():
            stack.enter_context(restore_contents(path))
            path.write_text(changes)
        said = ask(TOGETHER)
    if said.partition(":")[0] not in OUTCOMES:
        raise RuntimeError(f"{len(mutants)} mutants together: {said}")
    if said == "survived":
        for mutant in mutants:
            note(database, mutant, f"survived: together with {len(mutants) - 1} others")
    return said


def changed_files(mutants: list[Mutant]) -> dict[Path, str]:
    """Return the texts of the files with all of ``mutants`` in them.

    From the last to the first: what stands behind a place does not change which
    occurrence it is.
    """
    texts: dict[Path, str] = {}
    for mutant in sorted(mutants, key=lambda each: each.spec.start_pos, reverse=True):
        spec = mutant.spec
        operator = plugins.get_operator(spec.operator_name)()
        text = texts.get(spec.module_path) or spec.module_path.read_text()
        texts[spec.module_path] = mutate_code(text, operator, spec.occurrence)
    return texts


def note(database: WorkDB, mutant: Mutant, said: str) -> None:
    """Write the verdict on a mutant into the session."""
    outcome = OUTCOMES[said.partition(":")[0]]
    result = WorkResult(WorkerOutcome.NORMAL, said, outcome, str(mutant.name))
    database.set_result(mutant.item.job_id, result)
