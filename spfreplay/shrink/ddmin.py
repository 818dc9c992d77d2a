"""Fewer of anything, as long as a predicate holds.

Delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing
input", IEEE TSE 2002), removal only: chunks of halving size are left out, from
the end on, for what comes after the failure is most easily spared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from spfreplay.shrink.draft import Draft


def fewer(
    draft: Draft,
    count: Callable[[Draft], int],
    leave_out: Callable[[Draft, range], Iterator[Draft]],
    accept: Callable[[Draft], bool],
) -> Draft:
    """Return ``draft`` with as few things as leaving out chunks achieves.

    :param count: how many there are.
    :param leave_out: what the draft becomes without some of them, the best first.
    :param accept: keep a candidate?  It may raise to end the search.
    """
    size = max(1, count(draft) // 2)
    while True:
        shrunk = False
        end = count(draft)
        while end > 0:
            start = max(0, end - size)
            found = next(filter(accept, leave_out(draft, range(start, end))), None)
            if found is not None:
                shrunk = True
                draft = found
                end = min(start, count(draft))
            else:
                end = start
        if size > 1:
            size //= 2
        elif not shrunk:
            return draft
