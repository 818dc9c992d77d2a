"""Where the readers refuse something: every such place, and those that were reached."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2] / "spfreplay"

#: what refuses when it is called, or raised
_REFUSES = {
    "refuse",
    "refuse_text",
    "_refuse",
    "Malformed",
    "BadLine",
    "ValueError",
    "TraceError",
}


def sites(path):
    """Return (first line, last line) of every refusal in a source file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in _REFUSES:
                found.append((node.lineno, node.end_lineno))
    return found


def lines_of(error):
    """Yield (file, line) of all that an error went through, causes included."""
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            yield Path(trace.tb_frame.f_code.co_filename), trace.tb_lineno
            trace = trace.tb_next
        error = error.__cause__ or error.__context__


def unreached(paths, errors):
    """Return the refusals in ``paths`` that none of ``errors`` came from."""
    reached = {place for error in errors for place in lines_of(error)}
    return [
        f"{path.relative_to(ROOT)}:{first}"
        for path in paths
        for first, last in sites(path)
        if not any((path, line) in reached for line in range(first, last + 1))
    ]
