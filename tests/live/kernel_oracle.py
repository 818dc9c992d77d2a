"""The live-kernel judge as a command and for the tests.

    python tests/live/kernel_oracle.py --seed S --ops N --profile anon --shrink

runs seeded random programs on the running kernel and on an engine and prints
the first disagreement, shrunk to a minimal program.
"""

import argparse
import importlib
import sys
import time

from judge import run
from live_kernel import cannot_judge
from random_programs import PROFILES, Generator

ENGINES = {
    "reference": ("spfreplay_reference.engine", "LockedKernel"),
    "spf": ("spfreplay.mm.kernel", "SpeculativeKernel"),
}


def engine_class(name):
    module, attribute = ENGINES[name]
    return getattr(importlib.import_module(module), attribute)


def judge(make_engine, profile_name, seed, count, without=()):
    """Judge the program of ``seed``; a disagreement counts if it happens twice.

    The kernel has a life of its own (writeback, khugepaged, the interpreter's
    own faults).  Return (Mismatch or None, operations checked, program, base).
    """
    profile = PROFILES[profile_name]
    generator = Generator(seed, profile)
    ops = [op for op in generator.program(count) if op.name not in without]
    found, checked = run(make_engine, profile, generator.base, ops)
    if found:
        again, _ = run(make_engine, profile, generator.base, ops)
        if again is None or again.what != found.what or again.step != found.step:
            found = again and run(make_engine, profile, generator.base, ops)[0]
    return found, checked, ops, generator.base


def shrink(make_engine, profile_name, base, ops, found, deadline=60.0):
    """Return (fewest operations that still disagree in that way, Mismatch).

    Delta removal: drop chunks, halving their size, each try in a new process.
    """
    profile = PROFILES[profile_name]
    end = time.monotonic() + deadline
    ops = ops[: found.step + 1]
    size = len(ops) // 2
    while size:
        at = 0
        while at < len(ops) and time.monotonic() < end:
            fewer = ops[:at] + ops[at + size :]
            result = fewer and run(make_engine, profile, base, fewer, True, 20)[0]
            if result and result.what == found.what:
                ops, found = fewer[: result.step + 1], result
            else:
                at += size
        size //= 2
    return ops, found


def report(profile_name, seed, base, ops, found, out=sys.stdout):
    """Print one disagreement."""
    print(f"MISMATCH profile {profile_name} seed {seed} base {base:#x}", file=out)
    print(f"  operation {found.step}: {found.what}", file=out)
    for op in ops[: found.step + 1][-40:]:
        print(f"    {op.text(base)}", file=out)
    for line in found.details[:24]:
        print(f"  {line}", file=out)


def check(make_engine, profile_name, seeds, count):
    """Judge several programs; return what to print of the first disagreement."""
    import io

    for seed in seeds:
        found, _, ops, base = judge(make_engine, profile_name, seed, count)
        if found:
            out = io.StringIO()
            small, found = shrink(make_engine, profile_name, base, ops, found, 20.0)
            report(profile_name, seed, base, small, found, out)
            return out.getvalue()
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default="reference")
    parser.add_argument("--profile", choices=PROFILES, default="anon")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="that many, from --seed on")
    parser.add_argument("--ops", type=int, default=1000)
    parser.add_argument("--without", nargs="*", default=(), help="leave out these calls")
    parser.add_argument("--shrink", action="store_true")
    parser.add_argument("--keep-going", action="store_true")
    options = parser.parse_args()
    if why := cannot_judge():
        sys.exit(why)
    make_engine = engine_class(options.engine)
    total, bad, start = 0, 0, time.monotonic()
    for seed in range(options.seed, options.seed + options.seeds):
        found, checked, ops, base = judge(
            make_engine, options.profile, seed, options.ops, options.without
        )
        total += checked
        if found:
            bad += 1
            if options.shrink:
                ops, found = shrink(make_engine, options.profile, base, ops, found)
            report(options.profile, seed, base, ops, found)
            if not options.keep_going:
                break
    seconds = time.monotonic() - start
    print(
        f"{options.profile}: {total} operations checked in {seconds:.1f} s "
        f"({total / seconds:.0f}/s), {bad} mismatches"
    )
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
