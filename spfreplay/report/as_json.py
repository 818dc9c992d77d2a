"""Tell results as JSON: one object, keys sorted, numbers as they are.

``schema_version`` changes whenever a key changes its name or meaning; adding
keys does not change it.  Page words and answers are the integers of
``reference/contract.py``.
"""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, Final

from spfreplay import __version__
from spfreplay.diff import DiffResult
from spfreplay.verify import VerifyResult

if TYPE_CHECKING:
    from spfreplay.ci import CheckRun

SCHEMA_VERSION: Final = 1


def diff(results: list[DiffResult]) -> str:
    """Return the document of ``spfreplay diff --format json``."""
    return document("diff", [_diff(result) for result in results])


def checked(run: CheckRun) -> str:
    """Return the document of ``spfreplay diff --ci``: the results, and what was expected."""
    items = [
        {
            "path": item.path,
            "protocol": item.protocol,
            "expected": str(item.expected),
            "status": item.status,
            "exit_code": item.exit_code,
            "why": item.why,
        }
        for item in run.items
    ]
    told = {"items": items, "passed_over": run.passed_over, "interrupted": run.interrupted}
    return document("diff", [_diff(result) for result in run.results], ci=told)


def verify(results: list[VerifyResult]) -> str:
    """Return the document of ``spfreplay verify --format json``."""
    return document("verify", [_verify(result) for result in results])


def document(command: str, results: list[dict[str, Any]], **more: Any) -> str:
    """Return the one object that every command's JSON is.

    :param more: further keys of the object.
    """
    whole = {
        "schema_version": SCHEMA_VERSION,
        "tool": "spfreplay",
        "tool_version": __version__,
        "command": command,
        "results": results,
        **more,
    }
    return json.dumps(whole, indent=2, sort_keys=True) + "\n"


def _diff(result: DiffResult) -> dict[str, Any]:
    found: dict[str, Any] = plain(result)
    options = found.pop("options")
    # The report depends on the seed and the budget; not on how the work was shared out.
    del options["jobs"], options["dask"], options["notebook"]
    # Pictures are for pages.
    del options["pictures"], found["timeline"]
    for race in (found["orders"] or {}).get("races", ()):
        del race["picture"]
    found["protocol"] = options.pop("protocol")
    found["seed"] = options.pop("seed")
    found["budget"] = {
        "steps": options.pop("window_steps"),
        "all_steps": options.pop("steps"),
        "seconds": options.pop("seconds"),
        "preemptions": options.pop("preemptions"),
    }
    most = options.pop("window_most")
    if most is not None:
        found["budget"]["window_most"] = most
    found["options"] = options
    found["exit_code"] = result.exit_code
    found["windows"]["in_wide_windows"] = result.windows.in_wide_windows
    return found


def _verify(result: VerifyResult) -> dict[str, Any]:
    found: dict[str, Any] = plain(result)
    found["exit_code"] = result.exit_code
    found["percent"] = {
        name: round(result.percent(name), 6)
        for name in sorted({one.engine for one in result.checkpoints})
    }
    return found


def plain(value: Any) -> Any:
    """Turn dataclasses and named tuples into dicts, at any depth."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: plain(getattr(value, name)) for name in value._fields}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value
