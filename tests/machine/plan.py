"""What breaks when: drawn from a seed, so that a run can be asked for again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random


class Blow(StrEnum):
    KILL = "kill"
    """SIGKILL, then a new life."""
    STALL = "stall"
    """SIGSTOP for longer than anybody is believed to live, then SIGCONT."""
    LEAVE = "leave"
    """SIGTERM: it drains, then a new life."""


SERVER = "server"
HEAL_S = 9.0
"""Between two blows at one process: it should live a little in between."""
STALL_S = (4.0, 7.0)
AWAY_S = (0.0, 1.5)


@dataclass(frozen=True, slots=True)
class Fault:
    at_s: float
    blow: Blow
    target: str
    seconds: float
    """How long it stalls, or stays away before its next life."""


def draw_faults(seed: int, targets: Sequence[str], seconds: float, every_s: float) -> tuple[Fault, ...]:
    """One blow every `every_s`, each target as often as any other, three kills for each other blow; the server is killed only."""
    random, faults = Random(seed), list[Fault]()
    ready_at = dict.fromkeys(targets, 0.0)
    turns: list[str] = []
    at_s = every_s / 2
    while at_s < seconds:
        turns = turns or random.sample(list(targets), len(targets))
        target = next((name for name in turns if ready_at[name] <= at_s), None)
        if target is not None:
            turns.remove(target)
            blow = Blow.KILL if target == SERVER or random.random() < 0.75 else random.choice([Blow.STALL, Blow.LEAVE])
            wait_s = random.uniform(*(STALL_S if blow is Blow.STALL else AWAY_S))
            faults.append(Fault(at_s, blow, target, wait_s))
            ready_at[target] = at_s + wait_s + HEAL_S
        at_s += every_s
    return tuple(faults)
