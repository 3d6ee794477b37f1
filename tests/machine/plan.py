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
    CUT = "cut"
    """Every connection to the server breaks, and none comes about for as long as it lasts."""
    CUT_SOME = "cut some"
    """Half of them break."""
    HOLD = "hold"
    """Nothing passes, and nobody is told."""
    LATE = "late"
    """Everything to and from the server takes 0.15 s longer, each way."""
    FILL = "fill"
    """The disk of the server's append-only file is full for a while; a server that ends of it lives again."""

    FORWARD = "clock forward"
    """The server's wall clock jumps ahead by an hour, and back again later."""
    BACK = "clock back"


SERVER, NETWORK = "server", "network"
SERVER_BLOWS = (Blow.FILL, Blow.FORWARD, Blow.BACK)
"""Beside SIGKILL."""
NETWORK_BLOWS = (Blow.CUT, Blow.CUT_SOME, Blow.HOLD, Blow.LATE)
NETWORK_S = (1.0, 10.0)
FULL_S = (1.0, 3.0)
KILL_SHARE = 0.75
JUMP_S = (2.0, 10.0)
HEAL_S = 9.0
"""Between two blows at one process: it should live a little in between."""
STALL_S = (4.0, 7.0)
AWAY_S = (0.0, 1.5)
LASTS_S = {Blow.STALL: STALL_S, Blow.FILL: FULL_S, Blow.FORWARD: JUMP_S, Blow.BACK: JUMP_S, **dict.fromkeys(NETWORK_BLOWS, NETWORK_S)}


@dataclass(frozen=True, slots=True)
class Fault:
    at_s: float
    blow: Blow
    target: str
    seconds: float
    """How long it stalls, or stays away before its next life."""


def draw_faults(seed: int, targets: Sequence[str], seconds: float, every_s: float) -> tuple[Fault, ...]:
    """One blow every `every_s`, each target as often as any other; at the server and at processes three kills for each other blow."""
    random, faults = Random(seed), list[Fault]()
    ready_at = dict.fromkeys(targets, 0.0)
    turns: list[str] = []
    at_s = every_s / 2
    while at_s < seconds:
        turns = turns or random.sample(list(targets), len(targets))
        target = next((name for name in turns if ready_at[name] <= at_s), None)
        if target is not None:
            turns.remove(target)
            blow = _blow_at(target, random)
            wait_s = random.uniform(*LASTS_S.get(blow, AWAY_S))
            faults.append(Fault(at_s, blow, target, wait_s))
            ready_at[target] = at_s + wait_s + HEAL_S
        at_s += every_s
    return tuple(faults)


def _blow_at(target: str, random: Random) -> Blow:
    if target == NETWORK:
        return random.choice(NETWORK_BLOWS)
    if random.random() < KILL_SHARE:
        return Blow.KILL
    return random.choice(SERVER_BLOWS if target == SERVER else (Blow.STALL, Blow.LEAVE))
