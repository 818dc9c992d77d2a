"""A replay that is cut in two and goes on from the image of the cut ends the same.

The image of a window is one of these, of fewer pages.
"""

from pathlib import Path

import pytest

from spfreplay.engines import PLAYED_COLUMNS, Player, make_engine
from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.mm.validate import validate_mm
from spfreplay.mm.window_image import window_files, window_image
from spfreplay.trace.container import open_trace
from spfreplay_reference.contract import (
    CLONE_THREAD,
    CLONE_VM,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MM_NONE,
    OP_FORK,
    OP_MMAP,
    OP_SWAP_OUT,
    PROT_READ,
    PROT_WRITE,
    X86_PF_USER,
    X86_PF_WRITE,
    InitialImage,
    KernelProfile,
)

RECORDED = Path(__file__).resolve().parents[2] / "traces" / "recorded"
NAMES = ["forkcow", "python-threads", "perl", "pipeline", "true", "sqlite"]
ALL = [(0, 1 << 35)]


def cut_out(kernel, tables):
    """A second kernel in the state of ``kernel``, by way of images."""
    images = {mm: window_image(kernel.kernel.mms[mm], ALL) for mm in kernel.mms()}
    files = [file.facts for file in tables.files]
    known = {file.id for file in files}
    made = window_files(kernel.kernel, list(images.values()))
    now = {file.id: file for file in made}
    files = [now.get(file.id, file) for file in files]
    files += [file for file in made if file.id not in known and file.id >= 0]
    copy = SpeculativeKernel(tables.header.profile, files)
    for mm, image in images.items():
        first, *others = tasks_of(kernel, mm)
        copy.exec(0, MM_NONE, first, mm, image)
        for tid in others:
            copy.call(0, OP_FORK, mm, first, tid, mm, CLONE_VM | CLONE_THREAD)
    return copy


def tasks_of(kernel, mm):
    """Thread ids, as many as the address space has users; made up where they are not known."""
    known = [t.tid for t in kernel.kernel.tasks.values() if t.mm is kernel.kernel.mms[mm]]
    users = kernel.users(mm)
    return (known + list(range(900_000, 900_000 + users)))[:users]


def comparable(image):
    """Without the numbers of files: a shared anonymous object has one of its own here."""
    return image._replace(regions=tuple(region._replace(file=0) for region in image.regions))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_replay_goes_on_from_an_image(name, part):
    trace = open_trace(RECORDED / f"{name}.bin")
    kernel = make_engine("spf-v11", trace.tables)
    (columns,) = trace.chunks(PLAYED_COLUMNS)
    at = int(len(columns) * part)
    Player(kernel, trace.tables).play(columns, 0, at)
    copy = cut_out(kernel, trace.tables)
    assert [comparable(copy.image(mm)) for mm in copy.mms()] == [
        comparable(kernel.image(mm)) for mm in kernel.mms()
    ]
    assert [line for line in validate_mm(copy.kernel) if not line.startswith("file ")] == []
    until = min(len(columns), at + 400)
    whole, rest = Player(kernel, trace.tables), Player(copy, trace.tables)
    whole.play(columns, at, until)
    rest.play(columns, at, until)
    assert rest.results == whole.results
    assert [comparable(copy.image(mm)) for mm in copy.mms()] == [
        comparable(kernel.image(mm)) for mm in kernel.mms()
    ]


@pytest.mark.parametrize("seen", ["nobody", "parent", "child"])
def test_swap_entries_go_into_an_image_with_their_slots(seen):
    """A page of two address spaces, swapped out, and perhaps read by one of them again."""
    engine = SpeculativeKernel(KernelProfile(), ())
    engine.exec(0, MM_NONE, 1, 1, InitialImage((), (), 0, 0))
    prot, flags = PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
    addr = engine.call(1, OP_MMAP, 1, 1, 0, 1 << 14, prot, flags, -1)
    user, write = X86_PF_USER, X86_PF_USER | X86_PF_WRITE
    engine.access(2, 1, 1, addr, write)
    engine.call(3, OP_FORK, 1, 1, 2, 2, 0)
    engine.access(4, 1, 1, addr + 4096, write)
    for page in (0, 1):
        assert engine.call(5 + page, OP_SWAP_OUT, 1, 1, addr + page * 4096) == 0
    if seen != "nobody":
        mm = 1 if seen == "parent" else 2
        engine.access(7, mm, mm, addr, user)
    copy = SpeculativeKernel(KernelProfile(), ())
    for mm in (1, 2):
        copy.exec(0, MM_NONE, mm, mm, window_image(engine.kernel.mms[mm], ALL))
    for each in (engine, copy):
        for stamp, mm in ((8, 1), (10, 2)):
            each.access(stamp, mm, mm, addr, write)
            each.access(stamp + 1, mm, mm, addr + 4096, user)
        assert validate_mm(each.kernel) == []
    assert [copy.image(mm) for mm in (1, 2)] == [engine.image(mm) for mm in (1, 2)]
