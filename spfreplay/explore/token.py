"""Tokens: an exploration that was left, as one printable word."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Any, Final

from spfreplay.explore.schedule import ScheduleError

_VERSION: Final = "x1"


def write_token(key: list[object], saved: list[object]) -> str:
    """Return a token of ``saved`` that only an exploration with ``key`` takes."""
    text = json.dumps([key, saved], separators=(",", ":"))
    packed = zlib.compress(text.encode(), 9)
    return f"{_VERSION}:{base64.urlsafe_b64encode(packed).decode()}"


def read_token(token: str, key: list[object]) -> list[Any]:
    """Return what :func:`write_token` was given.

    :raises ScheduleError: it is no token, or one of something else
    """
    version, _, packed = token.strip().partition(":")
    if version != _VERSION:
        raise ScheduleError(f"token: is of version {version[:8]!r}, expected {_VERSION}")
    try:
        found, saved = json.loads(zlib.decompress(base64.urlsafe_b64decode(packed)))
    except (ValueError, binascii.Error, zlib.error) as error:
        raise ScheduleError(f"token: is damaged ({error})") from error
    if found != key:
        raise ScheduleError(f"token: belongs to {found}, not to {key}")
    assert isinstance(saved, list)
    return saved
