"""A lint for the style of the protocol: what is shared is announced.

Rules, each with a twin below that breaks it:

shape      an announcement is the statement ``yield KIND, obj, FIELD``: names of
           :mod:`spfreplay.mm.steps`, and an object told without a call;
place      a statement follows it in the same block, and touches nothing of
           another announced name;
access     a shared field is touched only in the statement right below an
           announcement that names it;
call       a generator of the protocol is called inside ``yield from``, and
           that is a whole statement;
type       a function announces, or calls what does, if and only if it returns
           ``Steps[...]``.

Exempt from *access*: what a comment ``# private`` says nobody else can see;
objects that the function made itself; reads of what the locks named in the
function's ``Context:``, or taken in the function, keep still (mmap_sem: bounds,
flags, pointers of VMAs and the counts of the mm); plain functions, which run
inside one step or where nobody else runs.
"""

import ast
import re
from itertools import pairwise

import pytest

from spfreplay.mm import steps
from spfreplay.mm.build import PROTOCOL_MODULES, module_path

KINDS = {name for name in vars(steps) if name.lower() in steps.KIND_NAMES}
FIELDS = {
    name: getattr(steps, name)
    for name in vars(steps)
    if name.isupper() and isinstance(getattr(steps, name), int) and name not in KINDS
}
#: attribute -> the fields that announce it
SHARED = {
    "vm_start": {"VM_START"}, "vm_end": {"VM_END"}, "vm_pgoff": {"VM_PGOFF"},
    "vm_flags": {"VM_FLAGS"}, "vm_page_prot": {"VM_PAGE_PROT"}, "vm_ops": {"VM_OPS"},
    "vm_file": {"VM_FILE"}, "anon_vma": {"ANON_VMA"}, "vm_policy": {"VM_POLICY"},
    "vm_userfaultfd_ctx": {"VM_USERFAULTFD_CTX"},
    "vm_sequence": {"VM_SEQUENCE", "SEQUENCE_RETRY"},
    "vm_ref_count": {"VM_REF_COUNT"}, "vm_rb_linked": {"VM_RB"},
    "anon_vma_chain": {"ANON_VMA_CHAIN"}, "num_children": {"RB_ROOT"},
    "num_active_vmas": {"RB_ROOT"}, "rb_root": {"RB_ROOT"},
    "mm_rb": {"MM_RB", "KEYS"}, "mm_users": {"MM_USERS"}, "map_count": {"MAP_COUNT"},
    "total_vm": {"TOTAL_VM"}, "locked_vm": {"LOCKED_VM"}, "def_flags": {"DEF_FLAGS"},
    "brk": {"BRK"}, "mmap_sem": {"MMAP_SEM"}, "mm_rb_lock": {"MM_RB_LOCK"},
    "page_table_lock": {"PAGE_TABLE_LOCK"},
    "swap_count": {"SWAP_MAP"}, "cached": {"SWAP_CACHE"},
    "ptl": {"PTL", "PMD_LOCK"}, "lock": {"ANON_VMA_LOCK"},
}  # fmt: skip
#: what nobody can change while mmap_sem is held for write
STABLE_WRITE = {
    "vm_start", "vm_end", "vm_pgoff", "vm_flags", "vm_page_prot", "vm_ops", "vm_file",
    "anon_vma", "vm_policy", "vm_userfaultfd_ctx", "anon_vma_chain", "mm_rb", "map_count",
    "total_vm", "locked_vm", "def_flags", "brk",
}  # fmt: skip
#: ... or held for read: a stack may grow, an anon_vma may come
STABLE_READ = STABLE_WRITE - {"anon_vma", "anon_vma_chain", "total_vm", "locked_vm"}
#: what i_mmap_lock keeps still
STABLE_BOUNDS = {"vm_start", "vm_end", "vm_pgoff"}
#: attributes of the same name on objects that are not shared
OWN = {"vmf", "self", "profile", "facts", "file"}


def trees():
    return {name: module_path(name).read_text() for name in PROTOCOL_MODULES}


def functions(sources):
    """(module, source lines, function) of every function of the protocol."""
    for name, source in sources.items():
        lines = source.splitlines()
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef):
                yield name, lines, node


def is_steps(function):
    returns = function.returns
    return (
        isinstance(returns, ast.Subscript)
        and isinstance(returns.value, ast.Name)
        and returns.value.id == "Steps"
    )


def announcement(statement):
    """The (KIND, FIELD) that ``statement`` announces; None if it is no yield."""
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Yield):
        return None
    value = statement.value.value
    if not isinstance(value, ast.Tuple) or len(value.elts) != 3:
        return "?", "?"
    kind, obj, field = value.elts
    plain = not any(isinstance(node, ast.Call) for node in ast.walk(obj))
    if not plain or not isinstance(kind, ast.Name) or not isinstance(field, ast.Name):
        return "?", "?"
    return kind.id, field.id


def blocks(function):
    """Every list of statements in ``function``."""
    for node in ast.walk(function):
        for part in ("body", "orelse", "finalbody"):
            block = getattr(node, part, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                yield block


def own_expressions(statement):
    """The nodes of ``statement`` itself, without the statements inside it."""
    if isinstance(statement, (ast.If, ast.While)):
        return list(ast.walk(statement.test))
    if isinstance(statement, ast.For):
        return list(ast.walk(statement.iter)) + list(ast.walk(statement.target))
    return list(ast.walk(statement))


def made_here(function):
    """Names of what ``function`` itself allocated, and nobody else has seen."""
    makers = {"vm_area_alloc", "vm_area_dup", "anon_vma_alloc", "MmStruct", "File", "PageTable"}
    return {
        target.id
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id in makers
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def held(function):
    """Attributes whose value the function's ``Context:`` keeps still for a reader."""
    text = " ".join((ast.get_docstring(function) or "").split())
    context = text.partition("Context:")[2]
    if "mmap_sem (read)" in context:
        return STABLE_READ
    if "mmap_sem (write)" in context or "the last user" in context:
        return STABLE_WRITE
    return STABLE_BOUNDS if "i_mmap_lock (held)" in context else set()


def held_between(function):
    """(first line, last line, attributes) between taking and dropping mmap_sem."""
    calls = sorted(
        (node.lineno, node.func.attr)
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Attribute)
        and node.func.value.attr == "mmap_sem"
    )
    for (line, taken), (end, _) in pairwise(calls):
        if taken == "write_lock":
            yield line, end, STABLE_WRITE
        elif taken == "read_lock":
            yield line, end, STABLE_READ


def base_name(node):
    """The variable that an attribute chain starts from."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def touches(statement):
    """(attribute, written, base name) of the shared fields that ``statement`` touches."""
    written = set()
    for node in own_expressions(statement):
        targets = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AugAssign):
            targets = [node.target]
        written.update(id(target) for target in targets if isinstance(target, ast.Attribute))
    methods = {id(n.func) for n in own_expressions(statement) if isinstance(n, ast.Call)}
    return [
        (node.attr, id(node) in written, base_name(node))
        for node in own_expressions(statement)
        if isinstance(node, ast.Attribute) and node.attr in SHARED and id(node) not in methods
    ]


def shape_errors(sources):
    for name, _, function in functions(sources):
        for block in blocks(function):
            for at, statement in enumerate(block):
                said = announcement(statement)
                where = f"{name}.{function.name}:{statement.lineno}"
                if said is None:
                    continue
                if said[0] not in KINDS or said[1] not in FIELDS:
                    yield f"{where}: shape: not KIND, obj, FIELD"
                if at + 1 == len(block) and said[0] not in BARE:
                    yield f"{where}: place: nothing follows"
                elif (
                    at + 1 < len(block) and announcement(block[at + 1]) and said[0] not in BARE
                ):
                    yield f"{where}: place: an announcement follows an announcement"


#: steps that are their own access: nothing of the model changes with them
BARE = {"FLUSH", "RCU_SYNC"}
LOCKS = {"LOCK", "LOCK_READ", "TRYLOCK", "UNLOCK"}


def access_errors(sources):
    for name, lines, function in functions(sources):
        if not is_steps(function):
            continue
        private = made_here(function) | OWN
        stable = held(function)
        locked = list(held_between(function))
        for block in blocks(function):
            for at, statement in enumerate(block):
                said = announcement(block[at - 1]) if at else None
                if announcement(statement):
                    continue
                if "# private" in lines[statement.lineno - 1]:
                    continue
                still = stable.union(
                    *(kept for a, b, kept in locked if a < statement.lineno < b)
                )
                for attribute, written, base in touches(statement):
                    if base in private or (not written and attribute in still):
                        continue
                    if said and said[1] in SHARED[attribute]:
                        continue
                    if said and said[0] in LOCKS and attribute in ("root", "anon_vma"):
                        continue
                    yield (
                        f"{name}.{function.name}:{statement.lineno}: access: "
                        f"{attribute} {'written' if written else 'read'} unannounced"
                    )


WHOLE = (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return)


def call_errors(sources):
    generators = {f.name for _, _, f in functions(sources) if is_steps(f)}
    for name, _, function in functions(sources):
        whole = set()
        for block in blocks(function):
            for statement in block:
                value = getattr(statement, "value", None)
                if isinstance(statement, WHOLE) and isinstance(value, ast.YieldFrom):
                    whole.add(id(value.value))
        for node in ast.walk(function):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if called and node.func.id in generators and id(node) not in whole:
                where = f"{name}.{function.name}:{node.lineno}"
                yield f"{where}: call: {node.func.id} without yield from"
            if isinstance(node, ast.YieldFrom):
                callee = node.value
                named = isinstance(callee, ast.Call) and isinstance(callee.func, ast.Name)
                if not named or callee.func.id not in generators:
                    where = f"{name}.{function.name}:{node.lineno}"
                    yield f"{where}: call: yield from no protocol function"


def type_errors(sources):
    for name, _, function in functions(sources):
        steps_in = any(isinstance(n, (ast.Yield, ast.YieldFrom)) for n in ast.walk(function))
        if steps_in != is_steps(function):
            yield f"{name}.{function.name}: type: announces and returns Steps, or neither"


RULES = (shape_errors, access_errors, call_errors, type_errors)


@pytest.mark.parametrize("rule", RULES)
def test_the_protocol_keeps_the_rule(rule):
    assert list(rule(trees())) == []


HEAD = "def f(task: Task, vma: VmArea) -> Steps[int]:\n"
BROKEN = {
    "shape: a call": ("yield READ, g(vma), VM_FLAGS\nx = vma.vm_flags", "shape"),
    "shape: two names": ("yield READ, vma\nx = 1", "shape"),
    "shape: a literal": ("yield 0, vma, VM_FLAGS\nx = vma.vm_flags", "shape"),
    "shape: no such field": ("yield READ, vma, FLAGS\nx = 1", "shape"),
    "place: nothing below": ("if vma:\n    yield READ, vma, VM_FLAGS\nreturn 0", "place"),
    "place: two in a row": (
        "yield READ, vma, VM_END\nyield READ, vma, VM_FLAGS\nx = vma.vm_flags", "place",
    ),
    "access: no announcement": ("x = vma.vm_flags\nyield READ, vma, VM_END\ny = 1", "access"),
    "access: another field": ("yield READ, vma, VM_END\nx = vma.vm_flags", "access"),
    "access: one statement late": (
        "yield READ, vma, VM_FLAGS\nx = 0\nx = vma.vm_flags", "access",
    ),
    "access: in a test": (
        "if vma.vm_sequence & 1:\n    return 1\nyield READ, vma, VM_END\nx = 1", "access",
    ),
    "access: written under mmap_sem": (
        '"""X.\n\nContext: mmap_sem (write).\n"""\nvma.vm_flags = 0\n'
        "yield READ, vma, VM_END\nx = 1",
        "access",
    ),
    "access: behind the unlock": (
        "yield LOCK, mm, MMAP_SEM\nmm.mmap_sem.write_lock(task)\n"
        "yield UNLOCK, mm, MMAP_SEM\nmm.mmap_sem.write_unlock(task)\nreturn mm.brk",
        "access",
    ),
    "call: forgotten": ("yield READ, vma, VM_END\nx = vma.vm_end\nf(task, vma)", "call"),
    "call: inside an expression": ("x = 1 + (yield from f(task, vma))\nreturn x", "call"),
    "call: something else": ("yield from g(vma)\nreturn 0", "call"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_break_of_the_rule_is_reported(name):
    body, rule = BROKEN[name]
    source = HEAD + "".join(f"    {line}\n" for line in body.splitlines())
    found = [line for check in RULES for line in check({"m": source})]
    assert any(f": {rule}: " in line for line in found), found


@pytest.mark.parametrize(
    "source",
    [
        "def f(task: Task) -> int:\n    yield READ, task, IRQ\n    x = 1\n",
        "def f(task: Task) -> Steps[int]:\n    return 0\n",
    ],
)
def test_a_wrong_type_is_reported(source):
    assert list(type_errors({"m": source})) != []


def test_a_correct_function_passes():
    source = HEAD + (
        "    yield READ, vma, VM_FLAGS\n    flags = vma.vm_flags\n"
        "    new = vm_area_alloc(task, mm)\n    new.vm_flags = flags\n"
        "    vma.anon_vma = None  # private\n    return (yield from f(task, vma))\n"
    )
    assert [line for rule in RULES for line in rule({"m": source})] == []


def test_every_field_has_a_name():
    numbers = sorted(FIELDS.values())
    assert numbers == list(range(len(steps.FIELD_NAMES)))
    assert all(re.fullmatch(r"[a-z_]+", name) for name in steps.FIELD_NAMES)
