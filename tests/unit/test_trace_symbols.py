"""Names from ELF files, and none from anything else."""

import os
import random
import shutil
import subprocess

import pytest

from spfreplay.trace.symbols import Symbol, Symbolizer, build_id

SOURCE = """
int helper(int x) { return x * 3; }
int main(int argc, char **argv) { return helper(argc); }
"""

needs_cc = pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc: no ELF file to read")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elf")
    (folder / "p.c").write_text(SOURCE)
    command = ["gcc", "-O0", "-Wl,--build-id=0x1234abcd", "-o", "p", "p.c"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "p"


def offset_of(program, name):
    """Return the offset in the file of a function, from nm: text is mapped 1:1."""
    table = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in table.splitlines() if line.endswith(f" T {name}"))
    return int(line.split()[0], 16)


@needs_cc
def test_the_build_id_is_that_of_the_note(program):
    assert build_id(program) == "1234abcd"


@needs_cc
def test_a_place_in_a_function_is_named(program):
    at = offset_of(program, "helper")
    assert Symbolizer().lookup(str(program), at + 5) == Symbol("helper", 5)


@needs_cc
def test_another_build_of_the_file_gives_no_name(program):
    at = offset_of(program, "helper")
    assert Symbolizer().lookup(str(program), at, "1234abcd") == Symbol("helper", 0)
    assert Symbolizer().lookup(str(program), at, "1234abce") is None


@needs_cc
@pytest.mark.parametrize("offset", [0, 1 << 40, -1])
def test_a_place_in_no_function_is_not_named(program, offset):
    assert Symbolizer().lookup(str(program), offset) is None


@needs_cc
def test_a_stripped_file_keeps_its_build_id(program, tmp_path):
    at = offset_of(program, "helper")
    subprocess.run(["strip", "-o", tmp_path / "s", program], check=True)
    assert (build_id(tmp_path / "s"), Symbolizer().lookup(str(tmp_path / "s"), at)) == (
        "1234abcd",
        None,
    )


@needs_cc
def test_a_garbled_file_gives_nothing_or_something_but_no_error(program, tmp_path):
    good = program.read_bytes()
    rng = random.Random(3)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.choice((1, 3, 20))):
            data[rng.randrange(rng.choice((64, 1024, len(data))))] = rng.randrange(256)
        (tmp_path / "bad").write_bytes(
            data[: rng.choice((len(data), rng.randrange(len(data))))]
        )
        assert isinstance(build_id(tmp_path / "bad"), str)
        Symbolizer().lookup(str(tmp_path / "bad"), 0x1139)


@pytest.mark.parametrize("what", ["missing", "text", "folder", "pipe", "empty", "zero"])
def test_what_is_no_elf_file_has_no_names(tmp_path, what):
    path = tmp_path / what
    if what == "text":
        path.write_text("hello")
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "zero":
        path = "/dev/zero"
    assert (build_id(path), Symbolizer().lookup(str(path), 1)) == ("", None)
