"""Why here, and why cut there: the line that `explain` shows of a placement. Bounded, however many workers there are."""

from __future__ import annotations

from itertools import islice
from operator import attrgetter

from scheduler.cost_model import fits, prefill_seconds, pull_seconds
from scheduler.fleet import FREE, NO_ROOM, Standing
from scheduler.policies.base import Take
from scheduler.requests import LiveRequest
from scheduler.scores import TAKE, WHOLE, Score, score
from scheduler.state import State
from scheduler.view import WaitingView, WorkerView

JUDGED = 8
"""Free owners whose scores are worked out."""
SHOWN = 5
"""Of them, the best ones whose parts are told."""
REASONS = {standing: str(standing) for standing in Standing} | {FREE: "slower"}
"""Why the others lost, by where they stand."""
DIGITS = 6


def placement_story(state: State, policy: str, request: LiveRequest, chosen: WorkerView, take: Take) -> dict[str, object]:
    """In figures; called before the placement is written down."""
    held, offered = request.head_start, request.head_start.offered if request.head_start else 0
    giver = state.fleet.views.get(held.worker) if held is not None else None
    considered, lost = _considered(state, request, chosen, giver, take)
    return {
        "policy": policy,
        "worker": str(chosen.ref),
        "attempt": request.attempt,
        "tokens": request.num_tokens,
        "reserved_output": request.expected_output,
        "cut": take.cut,
        "source": str(giver.ref) if giver and take.cut else "",
        "offered": offered,
        "not_cut": _not_cut(chosen, giver, take.cut, offered),
        "pull_s": round(pull_seconds(chosen, giver, take.cut), DIGITS) if giver and take.cut else 0.0,
        "saved_s": round(prefill_seconds(chosen, 0, take.cut), DIGITS) if take.cut else 0.0,
        "prefix": state.prefixes.cached_tokens(chosen.ref, request.prefix, request.num_tokens),
        "considered": considered,
        "lost": lost,
        "waiting": len(state.backlog) - 1,
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
    judged = [fleet.views[key[-1]] for key in islice(fleet.free_owners, JUDGED)]
    if chosen not in judged:
        judged.append(chosen)
    scores = [_score(state, view, chosen, waiting, giver, take) for view in judged if view is chosen or fits(view, waiting)]
    if len(scores) > 1:
        scores.sort(key=attrgetter("cost"))
    shown = [_row(one) for at, one in enumerate(scores) if at < SHOWN or one.worker == chosen.ref]
    lost = fleet.standings.copy()
    for view in judged:
        lost[fleet.standing(view.ref)] -= 1
    if len(judged) > 1:
        lost[FREE] += len(scores) - len(shown)
        lost[NO_ROOM] += len(judged) - len(scores)
    return shown, {REASONS[standing]: count for standing, count in lost.items() if count}


def _score(state: State, view: WorkerView, chosen: WorkerView, waiting: WaitingView, giver: WorkerView | None, take: Take) -> Score:
    cached = state.prefixes.cached_tokens(view.ref, waiting.prefix, waiting.num_tokens)
    cut = take.cut if view is chosen or (giver is not None and giver.fingerprint == view.fingerprint) else 0
    role = WHOLE if view.ref in state.fleet.roles.assistants else TAKE
    return score(view, waiting, role, giver=giver, cut=cut, cached=cached)


def _row(one: Score) -> dict[str, object]:
    return {
        "worker": str(one.worker),
        "role": str(one.role),
        "queued_s": round(one.queued_s, DIGITS),
        "pull_s": round(one.pull_s, DIGITS) if one.pull_s else 0.0,
        "prefill_s": round(one.prefill_s, DIGITS),
        "ttft_s": round(one.ttft_s, DIGITS),
        "itl_s": round(one.itl_s, DIGITS),
        "free_kv": round(one.free_kv, DIGITS),
        "cost": round(one.cost, DIGITS),
        "prefix": one.prefix,
        "usd": round(one.usd, 9) if one.usd else 0.0,
    }
