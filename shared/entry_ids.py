"""Ids of stream entries, `<milliseconds>-<number>`, as the server gives them."""

from __future__ import annotations

START = "0-0"
"""Before the first entry of any stream."""


def order(entry_id: str) -> tuple[int, int]:
    """Entry ids compare as `(milliseconds, number)`."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)
