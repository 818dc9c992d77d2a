"""An anonymous trace says what the original says, but for names and places."""

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
from alike import Relation

from spfreplay.cli import main
from spfreplay.diff import DiffOptions
from spfreplay.pipeline import diff_trace
from spfreplay.report import as_json
from spfreplay.share.anonymous import write_anonymous
from spfreplay.share.names import plain_header
from spfreplay.trace.container import open_trace, read_events
from spfreplay.trace.events import Header
from spfreplay.trace.text import format_trace
from spfreplay.verify import verify_trace
from spfreplay_reference.contract import OP_ACCESS

TRACES = Path(__file__).parents[2] / "traces"
RECORDED = sorted(path.stem for path in TRACES.glob("recorded/*.bin"))
WRITTEN = sorted(chain(TRACES.glob("litmus/*.txt"), TRACES.glob("regressions/*.txt")))
QUICK = ("forkcow", "thp", "resize", "true")
SOME = ("mremap-source-write", "munmap-fault-last-in-gigabyte", "collapse-store", "fork-fault")

slow = pytest.mark.slow


def reports(trace, path, **options):
    result = diff_trace(open_trace(trace), DiffOptions(jobs=1, **options), path="it")
    again = diff_trace(open_trace(path), DiffOptions(jobs=1, **options), path="it")
    return json.loads(as_json.diff([result])), json.loads(as_json.diff([again]))


def anonymous(trace, path):
    return write_anonymous(open_trace(trace), path)


def recordings():
    return [name if name in QUICK else pytest.param(name, marks=slow) for name in RECORDED]


def written():
    return [
        pytest.param(path, id=path.stem, marks=() if path.stem in SOME else slow)
        for path in WRITTEN
    ]


@pytest.mark.parametrize("name", recordings())
def test_a_recording_keeps_its_report(tmp_path, name):
    trace = TRACES / "recorded" / f"{name}.bin"
    found = anonymous(trace, tmp_path / "a.bin")
    both = reports(trace, tmp_path / "a.bin", explore=False)
    assert list(Relation(found).differences(*both)) == []


@pytest.mark.parametrize("path", written())
def test_a_race_keeps_its_report(tmp_path, path):
    found = anonymous(path, tmp_path / "a.bin")
    both = reports(path, tmp_path / "a.bin", window_steps=20_000)
    assert list(Relation(found).differences(*both)) == []


@slow
@pytest.mark.parametrize("name", ["cstress", "python-threads"])
def test_the_races_of_a_recording_keep_their_report(tmp_path, name):
    trace = TRACES / "recorded" / f"{name}.bin"
    found = anonymous(trace, tmp_path / "a.bin")
    both = reports(trace, tmp_path / "a.bin", window_steps=1500)
    assert list(Relation(found).differences(*both)) == []


@pytest.mark.parametrize("name", recordings())
def test_a_recording_is_verified_as_before(tmp_path, name):
    trace = TRACES / "recorded" / f"{name}.bin"
    found = anonymous(trace, tmp_path / "a.bin")
    before, after = (
        verify_trace(open_trace(trace)),
        verify_trace(open_trace(tmp_path / "a.bin")),
    )
    both = [json.loads(as_json.verify([each])) for each in (before, after)]
    assert (after.exit_code, list(Relation(found).differences(*both))) == (0, [])


# -- nothing of it is left ----------------------------------------------------


def numbers(value):
    """Yield every number that a trace holds, at any depth."""
    if isinstance(value, bool | str) or value is None:
        return
    if isinstance(value, int | float):
        yield value
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from numbers(getattr(value, name))
    elif isinstance(value, dict):
        for each in value.values():
            yield from numbers(each)
    else:
        for each in value:
            yield from numbers(each)


#: fields that hold no address, whatever they look like
_TIMES = ("t", "enter", "exit", "flags", "cpu", "op")


def without_times(event):
    return event._replace(**dict.fromkeys(_TIMES, 0))


def numbers_of(trace):
    """Return the numbers of a trace, where an address could hide."""
    tables = trace.tables
    kept = [
        numbers(replace(point, t=0, rss=(), pagemap=(), kpageflags=(), kpagecount=()))
        for point in tables.checkpoints
    ]
    events = (numbers(without_times(event)) for event in read_events(trace))
    return set(chain(numbers(tables.files), numbers(tables.images), *kept, *events))


def pages_of(trace):
    """Return the numbers of the pages that a recording shows anything of."""
    found = {
        vpn
        for point in trace.tables.checkpoints
        for vpn in (*point.vpns, *(r.start >> 12 for r in point.regions))
    }
    found |= {vpn for image in trace.tables.images for vpn, _ in image.pages}
    found |= {e.a0 >> 12 for e in read_events(trace) if e.op == OP_ACCESS}
    return {vpn for vpn in found if vpn >= 1 << 20}


def strings_of(trace):
    tables = trace.tables
    return {
        *(part for file in tables.files for part in (file.path, file.build_id)),
        *(part for process in tables.processes for part in (process.comm, process.exe)),
        *(name for point in tables.checkpoints for name in point.names),
        *tables.header.command,
        tables.header.profile.release,
    } - {"", "[stack]", "[heap]", "[vdso]", "[vvar]", "[vvar_vclock]"}


@pytest.mark.parametrize("name", recordings())
def test_no_name_is_left(tmp_path, name):
    trace = TRACES / "recorded" / f"{name}.bin"
    anonymous(trace, tmp_path / "a.bin")
    text = "\n".join(format_trace(open_trace(tmp_path / "a.bin")))
    secrets = strings_of(open_trace(trace))
    telling = {secret for secret in secrets if len(secret) > 3 and not secret.isdecimal()}
    assert len(telling) > 3
    assert {secret for secret in telling if secret in text} == set()


@pytest.mark.parametrize("name", recordings())
def test_no_page_is_left_where_it_was(tmp_path, name):
    trace = TRACES / "recorded" / f"{name}.bin"
    anonymous(trace, tmp_path / "a.bin")
    secrets = pages_of(open_trace(trace))
    left = {
        number
        for number in numbers_of(open_trace(tmp_path / "a.bin"))
        if number in secrets or (number >= 1 << 32 and number >> 12 in secrets)
    }
    assert (len(secrets) > 50, left) == (True, set())


def test_the_search_for_pages_finds_them_in_the_original():
    trace = open_trace(TRACES / "recorded" / "true.bin")
    secrets = pages_of(trace)
    found = {n >> 12 for n in numbers_of(trace)} & secrets | numbers_of(trace) & secrets
    assert found == secrets


def test_the_comparison_of_reports_notices_another_address(tmp_path):
    trace = TRACES / "litmus" / "mremap-source-write.txt"
    found = anonymous(trace, tmp_path / "a.bin")
    old, new = reports(trace, tmp_path / "a.bin", window_steps=20_000)
    text = json.dumps(new)
    address = str(found.addresses.address(0x2000_4000))
    assert address in text
    planted = json.loads(text.replace(address, str(0x80_0040_6000)))
    assert list(Relation(found).differences(old, planted))


def test_times_of_the_trace_are_those_of_the_original(tmp_path):
    trace = TRACES / "recorded" / "true.bin"
    anonymous(trace, tmp_path / "a.bin")

    def when(path):
        return [event[:4] for event in read_events(open_trace(path))]

    assert when(tmp_path / "a.bin") == when(trace)


def test_a_mapping_that_went_nobody_knows_where_is_refused(tmp_path, capfd):
    path = tmp_path / "a.txt"
    path.write_text("spfreplay text 1\nexec mm0 image=0\nmmap 0 4K rw- private|anon\nimage 0\n")
    code = main(["anonymize", str(path), "-o", str(tmp_path / "b.bin")])
    told = "event 1: expected the result of the call: where did the mapping go?"
    assert (code, capfd.readouterr().err) == (3, f"spfreplay: {path}: {told}\n")
    assert not (tmp_path / "b.bin").exists()


def test_the_key_leads_back(tmp_path):
    trace, out, key = (tmp_path / name for name in ("t.txt", "out.bin", "key.json"))
    trace.write_text(
        "spfreplay text 1\nthread 77\nfile 0 reg path=/secret/program\nimage 0\n"
        "  vma 0x7f0000000000-0x7f0000004000 r-xp file=0\nexec mm0 image=0\n"
    )
    assert main(["anonymize", str(trace), "-o", str(out), "--key", str(key)]) == 0
    found = json.loads(key.read_text())
    (moved,) = found["addresses"]
    region = open_trace(out).tables.images[0].regions[0]
    assert (found["files"], found["threads"]) == ({"/file1": "/secret/program"}, {"1": 77})
    back = region.start - int(moved["from"], 16) + int(moved["was"], 16)
    assert back == 0x7F00_0000_0000


@pytest.mark.parametrize(
    ("stated", "kept"),
    [
        ("DIVERGED spf18-mremap-source-hole, UAF_PT; MATCH under spf-fixed+M50", True),
        ("MATCH ; DIVERGED under spf-v11-file-faults", True),
        ("DIVERGED; MATCH under spf-fixed; within 20000", True),
        ("MATCH; within reach", False),
        ("DIVERGED as in /secret/program", False),
        ("whatever", False),
        ("", True),
    ],
)
def test_an_expectation_is_kept_if_it_is_in_words_of_the_tool(stated, kept):
    verdict = stated.split()[0].strip(";") if stated.startswith(("MATCH", "DIVERGED")) else ""
    assert plain_header(Header(expect=stated)).expect == (stated if kept else verdict)
