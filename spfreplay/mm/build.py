"""Build the functions of a protocol, with or without its announcements.

The protocol is written once, as generators whose ``yield`` s are the places
where another CPU may run (:mod:`spfreplay.mm.steps`).  Two forms are built
from that one source:

*window*
    the generators themselves, for operations that overlap;
*straight*
    the same source with the announcements stripped, for one operation alone:
    ``yield KIND, obj, FIELD`` goes away, ``yield from f(...)`` becomes a call,
    and of the small functions of a fault their body (:mod:`spfreplay.mm.straight`).

All modules of a protocol are executed in **one namespace**.  Rebuilding a
single module would leave it calling the unstripped functions of the others,
and a generator that nobody runs is a true value.  Classes are never rebuilt:
they live in modules outside the protocol, so that objects of one form are at
home in the other.  Line numbers and file names are those of the source, and
tracebacks show it.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from inspect import CO_GENERATOR
from pathlib import Path
from types import FunctionType, MappingProxyType
from typing import Any, Final, Literal

from spfreplay.mm import spf_reasons, steps, types
from spfreplay.mm.locking import RwLock, RwSpinLock, SpinLock
from spfreplay.mm.opening import BuildError, Methods, Opener
from spfreplay.mm.patching import Protocol, parsed, patched, shown_as
from spfreplay.mm.slots import note_slots
from spfreplay.mm.straight import Fold, constants_of, hoist, strip, strip_block
from spfreplay.mm.types import Page
from spfreplay_reference import contract

Form = Literal["straight", "window"]

PROTOCOL_MODULES: Final = (
    "vma",
    "rmap",
    "vma_adjust",
    "vma_merge",
    "mmap",
    "munmap",
    "brk",
    "mprotect",
    "mempolicy",
    "mremap",
    "madvise",
    "truncate",
    "mlock",
    "userfault",
    "userfaultfd",
    "fork",
    "khugepaged",
    "pgtable",
    "tlb",
    "spf_lock",
    "swap_state",
    "swapfile",
    "huge_memory",
    "filemap",
    "memory",
    "do_fault",
    "rmap_walk",
    "vmscan",
    "migrate",
    "swap_readahead",
    "swap",
    "numa",
    "handle_mm_fault",
    "zap",
    "change_protection",
    "madvise_free",
    "move_page_tables",
    "copy_page_range",
    "gup",
    "spf",
    "fault",
)
#: the protocol as it stands in these modules
SPF_V11: Final = Protocol("spf-v11")

#: what a fault calls, opened in the straight form: a fault costs a quarter less
OPENED: Final = (
    "do_page_fault",
    "handle_speculative_fault",
    "__handle_speculative_fault",
    "get_vma",
    "put_vma",
    "spf_check_vma",
    "spf_walk",
    "vma_has_changed",
    "pte_map_lock",
    "do_anonymous_page",
    "alloc_page_vma",
    "handle_pte_fault",
    "__page_add_new_anon_rmap",
    "free_page",
    "flush_tlb_batched_pending",
)
#: field -> class of the lock in it, whose methods are opened as well
OPENED_LOCKS: Final = {"ptl": SpinLock, "mm_rb_lock": RwSpinLock, "mmap_sem": RwLock}
OPENED_CONSTRUCTORS: Final = (Page,)
#: functions that walk page tables more than once
HOISTED: Final = ("access",)

PACKAGE: Final = "spfreplay.mm"
EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


class Namespace:
    """The functions and constants of one protocol in one form, as attributes."""

    def __init__(self, name: str, names: dict[str, Any]) -> None:
        self.__name__ = name
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        raise BuildError(f"{self.__name__} has no {name}")

    def functions(self) -> dict[str, FunctionType]:
        """Return the functions that this build made, by name."""
        return {
            name: value
            for name, value in self.__dict__.items()
            if isinstance(value, FunctionType) and value.__module__ == self.__name__
        }


def build(protocol: Protocol | str, form: Form) -> Namespace:
    """Build ``protocol`` in ``form``; the same object on every call.

    :param protocol: by name only the one that stands in this package.
    :raises BuildError: on an announcement of another shape, a name that two
        modules define, a class, an import of what no module defines, or an
        edit that does not fit.
    """
    if isinstance(protocol, str):
        if protocol != SPF_V11.name:
            raise BuildError(f"no edits are known here that make {protocol}")
        protocol = SPF_V11
    return built(protocol, form)


@cache
def built(protocol: Protocol, form: Form) -> Namespace:
    """Do as :func:`build`, once for each protocol and form."""
    texts = sources_of(protocol)
    paths = {name: str(module_path(name)) for name in PROTOCOL_MODULES}
    for module in {edit.module for edit in protocol.edits}:
        paths[module] = shown_as(texts[module], paths[module], protocol.name)
    trees = {name: parsed(text, paths[name]) for name, text in texts.items()}
    name = f"{PACKAGE}.<{protocol.name} {form}>"
    words = vocabulary() if protocol.edits else {}
    if form == "window":
        return link(name, trees, form, paths, words=words)
    methods = Methods(OPENED_LOCKS, OPENED_CONSTRUCTORS)
    return link(name, trees, form, paths, OPENED, methods, HOISTED, words)


def vocabulary() -> dict[str, Any]:
    """Return the constants that an edit may use without an import."""
    return {
        name: value
        for module in (steps, spf_reasons, types, contract)
        for name, value in vars(module).items()
        if name.isupper()
    }


def sources_of(protocol: Protocol) -> dict[str, str]:
    """Return the text of every module of ``protocol``, edits made.

    :raises BuildError: where an edit does not fit.
    """
    strangers = {edit.module for edit in protocol.edits} - set(PROTOCOL_MODULES)
    if strangers:
        raise BuildError(f"{protocol.name} edits {min(strangers)}, no module of the protocol")
    return {
        name: patched(
            module_path(name).read_text(),
            (edit for edit in protocol.edits if edit.module == name),
        )
        for name in PROTOCOL_MODULES
    }


@cache
def protocol_digest(protocol: Protocol) -> str:
    """Return a sha256 over the source of ``protocol``: a schedule fits no other.

    What is said in comments and docstrings, and how lines are broken, is no part of it.
    """
    digest = sha256()
    for name, text in sources_of(protocol).items():
        digest.update(f"{name}\0{bare(text)}\0".encode())
    return digest.hexdigest()


@cache
def bare(text: str) -> str:
    """Return the text of a module without comments and docstrings, in one layout."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def module_path(name: str) -> Path:
    """Return the source file of protocol module ``name``.

    :raises BuildError: if there is none.
    """
    spec = find_spec(f"{PACKAGE}.{name}")
    if spec is None or spec.origin is None:
        raise BuildError(f"protocol module {PACKAGE}.{name} does not exist")
    return Path(spec.origin)


def link(
    name: str,
    trees: dict[str, ast.Module],
    form: Form,
    sources: Mapping[str, str | Path],
    opened: Collection[str] = (),
    methods: Methods | None = None,
    hoisted: Collection[str] = (),
    words: Mapping[str, Any] = EMPTY,
) -> Namespace:
    """Execute the modules ``trees`` in one namespace called ``name``.

    :param opened: functions whose calls the straight form opens.
    :param methods: those of other classes, which it opens as well.
    :param hoisted: functions that it lets compute the indexes of an address once.
    :param words: constants that are known everywhere.
    """
    owners: dict[str, str] = {}
    wanted: list[tuple[str, str, str]] = []
    for module, tree in trees.items():
        wanted += take_out_imports(module, tree, trees)
        claim_names(module, tree, owners)
    for module, source, symbol in wanted:
        if owners.get(symbol) != source:
            raise BuildError(
                f"{module} imports {symbol} from {source}, which does not define it"
            )
    if form == "straight":
        straighten(trees, opened, methods, hoisted, words)
    names: dict[str, Any] = {**words, "__name__": name, **(methods.names if methods else {})}
    for module, tree in trees.items():
        exec(compile(tree, str(sources[module]), "exec"), names)
    names.pop("__builtins__")
    names.pop("annotations", None)
    if form == "window":
        for tree in trees.values():
            note_slots(tree, names)
    namespace = Namespace(name, names)
    if form == "straight":
        refuse_generators(namespace)
    return namespace


def straighten(
    trees: dict[str, ast.Module],
    opened: Collection[str],
    methods: Methods | None,
    hoisted: Collection[str],
    words: Mapping[str, Any],
) -> None:
    """Turn ``trees``, whose imports of one another are gone, into the straight form."""
    constants = {name: value for name, value in words.items() if isinstance(value, int)}
    functions: dict[str, ast.FunctionDef] = {}
    for module, tree in trees.items():
        strip(module, tree)
        constants |= constants_of(tree)
        functions |= {
            node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)
        }
    for name, method in methods.functions.items() if methods else ():
        method.body = strip_block(name, method.body)
    fold = Fold(constants | {"WINDOW": False})
    for function in functions.values():
        function.body = [fold.visit(node) for node in function.body]
    Opener(functions, opened, methods).open_all()
    for name in hoisted:
        hoist(functions[name])


def take_out_imports(
    module: str, tree: ast.Module, trees: dict[str, ast.Module]
) -> list[tuple[str, str, str]]:
    """Remove imports between protocol modules; return them as (by, from, name)."""
    wanted = []
    kept: list[ast.stmt] = []
    for node in tree.body:
        if is_type_checking(node):
            continue
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            package, _, source = node.module.rpartition(".")
            if package == PACKAGE and source in trees:
                wanted += [(module, source, alias.name) for alias in node.names]
                if any(alias.asname for alias in node.names):
                    raise BuildError(f"{module} renames what it imports from {source}")
                continue
        kept.append(node)
    tree.body = kept
    return wanted


def is_type_checking(node: ast.stmt) -> bool:
    """Tell whether ``node`` is an ``if TYPE_CHECKING:`` block."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def claim_names(module: str, tree: ast.Module, owners: dict[str, str]) -> None:
    """Write down which names ``module`` defines.

    :raises BuildError: if another module defines one of them too.
    """
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            raise BuildError(f"{module}:{node.lineno}: class {node.name} would be built twice")
        defined: list[str] = []
        if isinstance(node, ast.FunctionDef):
            defined = [node.name]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined = [node.target.id]
        elif isinstance(node, ast.Assign):
            defined = [each.id for each in node.targets if isinstance(each, ast.Name)]
        for symbol in defined:
            owner = owners.setdefault(symbol, module)
            if owner != module:
                raise BuildError(f"{symbol} is defined in both {owner} and {module}")


def refuse_generators(namespace: Namespace) -> None:
    """Check that no function of a straight build is a generator.

    :raises BuildError: if one is: a yield hides where it must not be.
    """
    for name, function in namespace.functions().items():
        if function.__code__.co_flags & CO_GENERATOR:
            raise BuildError(f"{name} yields inside an expression")
