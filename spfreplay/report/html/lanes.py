"""Time drawn from left to right, one lane for each thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import Final

from spfreplay.diff import Race
from spfreplay.report import words
from spfreplay.report.html.markup import Markup, join, tag
from spfreplay.report.words import count
from spfreplay.timeline import BINS, Lane, Mark, Span, Timeline

#: in the units of the drawing
_WIDTH: Final = 1000
_LEFT: Final = 150
_LANE: Final = 34
_TOP: Final = 8
#: letters of the labels, about
_LETTER: Final = 7
#: events of one window that are drawn
_DRAWN: Final = 60


def overview(drawn: Timeline, found: Mapping[Span, str]) -> Markup:
    """Draw a whole trace.

    :param found: windows in which something was found -> the name of its race in the page.
    """
    highest = max((max(*lane.faults, *lane.calls) for lane in drawn.lanes), default=1) or 1
    height = _TOP + _LANE * len(drawn.lanes) + 26
    lanes = [
        _busy(lane, _TOP + _LANE * n, highest, bars=not drawn.marks)
        for n, lane in enumerate(drawn.lanes)
    ]
    places = {lane.tid: _TOP + _LANE * n for n, lane in enumerate(drawn.lanes)}
    events = [_mark(drawn, mark, places) for mark in drawn.marks]
    quiet = [one for one in drawn.windows if one not in found]
    loud = [_linked(drawn, one, places, name) for one, name in found.items()]
    picture = tag(
        "svg", *lanes, *events, _ticks(drawn, quiet, places), *loud,
        _axis(drawn.begin, drawn.end, height),
        viewBox=f"0 0 {_WIDTH} {height}", role="img",
        aria_label=f"{count(len(drawn.lanes), 'thread')} over "
        f"{words.moment(drawn.end - drawn.begin)[1:]}",
    )  # fmt: skip
    said = "Above the line: faults, below it: calls"
    if not drawn.marks:
        said += (
            f", in each {BINS}th of the time (the height is the square root of the count; "
            f"the highest is {highest:,})"
        )
    said += ". Ticks: windows of several events; red ones hold a divergence and lead to it."
    left = []
    if drawn.lanes_left_out:
        left.append(count(drawn.lanes_left_out, "less busy thread"))
    if drawn.windows_left_out:
        left.append(count(drawn.windows_left_out, "narrower window"))
    if left:
        said += f" Left out: {' and '.join(left)}."
    return tag("figure", picture, tag("figcaption", said), class_="timeline")


def _mark(drawn: Timeline, mark: Mark, places: Mapping[int, int]) -> Markup:
    """Draw one event from enter to exit."""
    if mark.tid not in places:
        return Markup()
    middle = places[mark.tid] + _LANE * 0.55
    breadth = max(_x(drawn, mark.end) - _x(drawn, mark.begin), 2)
    return tag(
        "rect",
        tag("title", f"#{mark.number}"),
        x=round(_x(drawn, mark.begin), 1),
        y=round(middle - 9 if mark.fault else middle + 1, 1),
        width=round(breadth, 1),
        height=8,
        class_="faults" if mark.fault else "calls",
    )


def _busy(lane: Lane, top: int, highest: int, *, bars: bool) -> Markup:
    """Draw a thread and, as ``bars`` up and down, how busy it was."""
    middle = round(top + _LANE * 0.55, 1)
    title = (
        f"thread {lane.tid} of process {lane.pid} ({lane.comm}): "
        f"{count(sum(lane.faults), 'fault')}, {count(sum(lane.calls), 'call')}"
    )
    parts = [
        tag("title", title),
        tag("text", _shortened(f"T{lane.tid} {lane.comm}"), x=4, y=middle + 4, class_="label"),
        tag("line", x1=_LEFT, x2=_WIDTH, y1=middle, y2=middle, class_="lane"),
    ]
    if bars:
        up = _bars(lane.faults, middle, -0.5 * _LANE, highest)
        down = _bars(lane.calls, middle, 0.3 * _LANE, highest)
        parts += [tag("path", d=up, class_="faults"), tag("path", d=down, class_="calls")]
    return tag("g", *parts)


def _shortened(label: str) -> str:
    room = (_LEFT - 10) // _LETTER
    return label if len(label) <= room else f"{label[: room - 2]}.."


def _bars(counts: Sequence[int], middle: float, reach: float, highest: int) -> Markup:
    width = (_WIDTH - _LEFT) / max(len(counts), 1)
    path = "".join(
        f"M{_LEFT + n * width:.1f} {middle:.1f}h{width:.2f}v{reach * sqrt(each / highest):.1f}"
        f"h-{width:.2f}z"
        for n, each in enumerate(counts)
        if each
    )
    return Markup(path)


def _ticks(drawn: Timeline, windows: Iterable[Span], places: Mapping[int, int]) -> Markup:
    path = "".join(
        f"M{_x(drawn, one.begin):.1f} {places[tid] + _LANE - 5}h{_breadth(drawn, one):.1f}v4"
        f"h-{_breadth(drawn, one):.1f}z"
        for one in windows
        for tid in one.tids
        if tid in places
    )
    return tag("path", d=Markup(path), class_="window")


def _linked(drawn: Timeline, one: Span, places: Mapping[int, int], name: str) -> Markup:
    rows = [places[tid] for tid in one.tids if tid in places]
    if not rows:
        return Markup()
    top, bottom = min(rows) + 2, max(rows) + _LANE - 1
    title = f"window of {count(len(one.members), 'event')}, first #{one.members[0]}"
    bar = tag("rect", x=round(_x(drawn, one.begin) - 1, 1), y=top,
              width=round(max(_breadth(drawn, one), 3), 1), height=bottom - top)  # fmt: skip
    return tag("a", tag("title", title), bar, href=f"#{name}", class_="found")


def _x(drawn: Timeline, time: int) -> float:
    return _LEFT + (_WIDTH - _LEFT) * (time - drawn.begin) / max(drawn.end - drawn.begin, 1)


def _breadth(drawn: Timeline, one: Span) -> float:
    return max(_x(drawn, one.end) - _x(drawn, one.begin), 1.0)


def _axis(begin: int, end: int, height: int) -> Markup:
    return join(
        tag("text", words.moment(begin + (end - begin) * n // 4)[:-6] + "s",
            x=_LEFT + (_WIDTH - _LEFT) * n // 4, y=height - 6, class_="time",
            text_anchor=("start", "middle", "middle", "middle", "end")[n])
        for n in range(5)
    )  # fmt: skip


def intervals(race: Race) -> Markup:
    """Draw the operations of a window as they were recorded, from enter to exit."""
    events = race.events[:_DRAWN]
    if not events:
        return Markup()
    begin = min(one.event.enter for one in events)
    end = max(one.event.exit for one in events)
    span = max(end - begin, 1)
    tids = list(dict.fromkeys(one.event.tid for one in events))
    height = _TOP + _LANE * len(tids) + 26
    parts = [
        tag("text", f"T{tid}", x=4, y=_TOP + _LANE * n + 20, class_="label")
        for n, tid in enumerate(tids)
    ]
    for one in events:
        x = _LEFT + (_WIDTH - _LEFT) * (one.event.enter - begin) / span
        width = max((_WIDTH - _LEFT) * (one.event.exit - one.event.enter) / span, 2)
        parts.append(_interval(one.number, words.call(one.event), x, width,
                               _TOP + _LANE * tids.index(one.event.tid),
                               f"cpu{tids.index(one.event.tid) % 6}"))  # fmt: skip
    parts.append(
        tag("text", f"{words.moment(begin)}, {span:,} ns", x=_LEFT, y=height - 6, class_="time")
    )
    said = (
        "The operations as recorded, from enter to exit; where they overlap, any order may be."
    )
    if len(race.events) > len(events):
        said += f" Left out: {count(len(race.events) - len(events), 'event')}."
    return tag(
        "figure",
        tag("svg", *parts, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=said),
        tag("figcaption", said),
        class_="intervals",
    )


def _interval(number: int, call: str, x: float, width: float, top: int, colour: str) -> Markup:
    label = f"#{number} {call}"
    room = int((_WIDTH - x) / _LETTER)
    shown = label if len(label) <= room else f"#{number}"
    end = len(shown) > room
    return tag(
        "g",
        tag("title", label),
        tag("rect", x=round(x, 1), y=top + 4, width=round(width, 1), height=_LANE - 10, rx=3),
        tag(
            "text",
            shown,
            x=round(min(x, _WIDTH - 2) if end else x + 4, 1),
            y=top + 21,
            text_anchor="end" if end else None,
        ),
        class_=f"interval {colour}",
    )
