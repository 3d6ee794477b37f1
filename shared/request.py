"""The request's life as a table."""

from __future__ import annotations

from shared.errors import InvalidTransition
from shared.types import Phase

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.QUEUED: frozenset({Phase.RUNNING, Phase.MOVING, Phase.CANCELLED, Phase.FAILED}),
    Phase.RUNNING: frozenset({Phase.MOVING, Phase.FINISHED, Phase.CANCELLED, Phase.FAILED}),
    Phase.MOVING: frozenset({Phase.QUEUED, Phase.FINISHED, Phase.CANCELLED, Phase.FAILED}),
    Phase.FINISHED: frozenset(),
    Phase.CANCELLED: frozenset(),
    Phase.FAILED: frozenset(),
}
"""`MOVING` is the moment between owners: the old one is being fenced off and nobody may write.

A queued request also passes through `MOVING` when its head start turned into a loss of its place (a new leader is unsure
whether the placement took effect).
"""

TERMINAL = frozenset(phase for phase, onward in TRANSITIONS.items() if not onward)


def advance(current: Phase, wanted: Phase, story: object = "") -> Phase:
    """Returns `wanted` if the table allows it, else raises `InvalidTransition` with the request's story."""
    if wanted not in TRANSITIONS[current]:
        raise InvalidTransition(f"{current} -> {wanted} is not a step of a request's life; story: {story}")
    return wanted
