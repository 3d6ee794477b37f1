"""Which versions of the messages work together: neighbours do, nobody else does.

A pool is upgraded while it runs, process by process (`docs/operations.md`, "Rolling upgrade"), so for a while it speaks two versions. A
process of version N reads N - 1, N and N + 1. Within that window fields are only added at the end of a message and with defaults:
what an older one left out is filled in, what a newer one added is ignored.
"""

from __future__ import annotations

VERSION = 1
"""Of the messages this release writes. Raised by a release that writes what its predecessor could not read."""

FIRST = 1


def readable(theirs: int, ours: int = VERSION) -> bool:
    return theirs >= FIRST and abs(theirs - ours) <= 1


def mismatch(theirs: int, ours: int = VERSION) -> str:
    """Both versions and the remedy, for logs and error messages."""
    window = f"version {theirs} of the messages, where this process speaks {ours} and reads {max(FIRST, ours - 1)} to {ours + 1}"
    if theirs < FIRST:
        return f"{window}: no release ever wrote that"
    behind = "this process" if theirs > ours else "the other one"
    return f"{window}: upgrade {behind} first, one version at a time, until no two of a pool are further apart than one"
