"""Why here, and why cut there: the line that `explain` shows of a placement. Bounded, however many workers there are."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from scheduler.cost_model import fits, prefill_seconds, pull_seconds
from scheduler.fleet import Standing
from scheduler.policies.base import Take
from scheduler.requests import LiveRequest
from scheduler.scores import Role, Score, score
from scheduler.state import State
from scheduler.view import WaitingView, WorkerView

JUDGED = 8
"""Free owners whose scores are worked out."""
SHOWN = 5
"""Of them, the best ones whose parts are told."""
SLOWER, NO_ROOM = "slower", "no room"
DIGITS = 6


def placement_story(
    state: State, policy: str, request: LiveRequest, waiting: WaitingView, chosen: WorkerView, take: Take
) -> dict[str, object]:
    """In figures; called before the placement is written down."""
    held = request.head_start
    giver = state.fleet.views.get(held.worker) if held is not None else None
    considered, lost = _considered(state, waiting, chosen, giver, take)
    return {
        "policy": policy,
        "worker": str(chosen.ref),
        "attempt": request.attempt,
        "tokens": request.num_tokens,
        "reserved_output": waiting.expected_output,
        "cut": take.cut,
        "source": str(giver.ref) if giver and take.cut else "",
        "offered": held.offered if held else 0,
        "not_cut": _not_cut(chosen, giver, take.cut, held.offered if held else 0),
        "pull_s": round(pull_seconds(chosen, giver, take.cut), DIGITS) if giver and take.cut else 0.0,
        "saved_s": round(prefill_seconds(chosen, 0, take.cut), DIGITS),
        "prefix": state.prefixes.cached_tokens(chosen.ref, waiting.prefix, waiting.num_tokens),
        "considered": considered,
        "lost": lost,
        "waiting": len(state.backlog) - 1,
        "ttft_target_s": waiting.ttft_target_s,
        "itl_target_s": waiting.itl_target_s,
    }


def _not_cut(chosen: WorkerView, giver: WorkerView | None, cut: int, offered: int) -> str:
    """Why a head start that is there is not used."""
    if cut or not offered or giver is None:
        return ""
    return "wrong fingerprint" if giver.fingerprint != chosen.fingerprint else "transfer costs more than it saves"


def _considered(
    state: State, waiting: WaitingView, chosen: WorkerView, giver: WorkerView | None, take: Take
) -> tuple[list[dict[str, object]], dict[str, int]]:
    """The chosen worker and the best others, cheapest first; and how many lost for which reason."""
    fleet = state.fleet
    free = [fleet.views[key[-1]] for key in islice(fleet.free_owners, JUDGED)]
    judged = free if chosen in free else [*free, chosen]
    able = [view for view in judged if view is chosen or fits(view, waiting)]
    scores = sorted((_score(state, view, chosen, waiting, giver, take) for view in able), key=lambda one: one.cost)
    shown = [one for at, one in enumerate(scores) if at < SHOWN or one.worker == chosen.ref]
    lost = Counter({str(reason): count for reason, count in fleet.standings.items()})
    for view in judged:
        lost[str(fleet.standing(view.ref))] -= 1
    lost[SLOWER] += lost.pop(str(Standing.FREE), 0) + len(scores) - len(shown)
    lost[NO_ROOM] += len(judged) - len(able)
    return [_row(one) for one in shown], dict(+lost)


def _score(state: State, view: WorkerView, chosen: WorkerView, waiting: WaitingView, giver: WorkerView | None, take: Take) -> Score:
    cached = state.prefixes.cached_tokens(view.ref, waiting.prefix, waiting.num_tokens)
    cut = take.cut if view is chosen or (giver is not None and giver.fingerprint == view.fingerprint) else 0
    role = Role.WHOLE if view.ref in state.fleet.roles.assistants else Role.TAKE
    return score(view, waiting, role, giver=giver, cut=cut, cached=cached)


def _row(one: Score) -> dict[str, object]:
    seconds = ("queued_s", "pull_s", "prefill_s", "ttft_s", "itl_s", "free_kv", "cost")
    return {
        "worker": str(one.worker),
        "role": str(one.role),
        **{name: round(getattr(one, name), DIGITS) for name in seconds},
        "prefix": one.prefix,
        "usd": round(one.usd, 9),
        "in_time": one.in_time,
    }
