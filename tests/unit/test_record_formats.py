"""Layouts come from the kernel's format text, whatever they are."""

import struct

import pytest

from spfreplay.errors import CannotError
from spfreplay.record.catalog import CALL_MMAP, RAW_ENTER, RAW_EXIT, RAW_TASK_EXIT, Wanted
from spfreplay.record.formats import FormatField, compile_event, parse_format

COMMON = """\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;
"""
EXIT = f"""name: sched_process_exit
ID: 369
format:
{COMMON}
\tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:0;
\tfield:pid_t pid;\toffset:24;\tsize:4;\tsigned:1;
\tfield:int prio;\toffset:28;\tsize:4;\tsigned:1;
\tfield:bool group_dead;\toffset:32;\tsize:1;\tsigned:0;

print fmt: "comm=%s pid=%d", REC->comm, REC->pid
"""
ENTER = f"""name: sys_enter_mmap
ID: 174
format:
{COMMON}
\tfield:int __syscall_nr;\toffset:8;\tsize:4;\tsigned:1;
\tfield:unsigned long addr;\toffset:16;\tsize:8;\tsigned:0;
\tfield:unsigned long len;\toffset:24;\tsize:8;\tsigned:0;

print fmt: "x"
"""


def test_a_format_text_gives_names_places_sizes_and_signs():
    form = parse_format(EXIT)
    assert (form.id, form.name) == (369, "sched_process_exit")
    assert form.fields[4:] == (
        FormatField("comm", 8, 16, False),
        FormatField("pid", 24, 4, True),
        FormatField("prio", 28, 4, True),
        FormatField("group_dead", 32, 1, False),
    )


def test_what_is_no_format_text_is_refused():
    with pytest.raises(CannotError, match="not the format"):
        parse_format("hello")


def test_fields_are_read_in_the_order_asked_for_not_in_that_of_the_layout():
    wanted = Wanted("sched", "x", RAW_TASK_EXIT, ("group_dead", "pid"))
    read = compile_event(parse_format(EXIT), wanted)
    data = struct.pack("<HBBi16siiB", 369, 0, 0, -7, b"comm", 12, 120, 1)
    assert read(data, 0) == (-7, 1, 12)


def test_a_missing_field_is_zero_if_optional_and_an_error_if_not():
    older = parse_format(EXIT.replace("group_dead", "other"))
    read = compile_event(older, Wanted("sched", "x", RAW_TASK_EXIT, ("pid", "group_dead?")))
    data = struct.pack("<HBBi16siiB", 369, 0, 0, 5, b"", 12, 120, 1)
    assert read(data, 0) == (5, 12, 0)
    with pytest.raises(CannotError, match="no field 'group_dead'"):
        compile_event(older, Wanted("sched", "x", RAW_TASK_EXIT, ("pid", "group_dead")))


def test_a_call_entry_gives_six_arguments_as_signed_patterns():
    read = compile_event(parse_format(ENTER), Wanted("s", "x", RAW_ENTER, None, CALL_MMAP))
    data = struct.pack("<HBBiiiQQ", 174, 0, 0, 5, 9, 0, (1 << 64) - 1, 4096)
    assert read(data, 0) == (5, CALL_MMAP, -1, 4096, 0, 0, 0, 0)


def test_a_call_exit_gives_its_result():
    text = ENTER.replace("unsigned long addr", "long ret").replace("sys_enter", "sys_exit")
    read = compile_event(parse_format(text), Wanted("s", "x", RAW_EXIT, ("ret",), CALL_MMAP))
    data = struct.pack("<HBBiiiq", 173, 0, 0, 5, 9, 0, -12)
    assert read(data, 0) == (5, CALL_MMAP, -12)
