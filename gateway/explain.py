"""`GET /v1/requests/{id}/explain`: one request's timeline, from its record, its log and what its workers told. Pure; never prompt text.

The story's lines are free-form: `what` is for people, `data` holds figures under agreed names. What is summed up here is read from
`data` by those names, so that a line that says more, or a new kind of line, never breaks the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeGuard

from gateway.fold import Fold, Json
from shared.fabric import LoggedEntry, Record
from shared.messages import LogEnd, LogTokens, StoryLine


def explain(fold: Fold, entries: Sequence[LoggedEntry], record: Record | None, story: Sequence[StoryLine]) -> Json:
    """Times are milliseconds since submission, each by the clock of whoever wrote the line. `fold` has seen all `entries`."""
    created = fold.head.spec.created_ms
    tokens = [logged.entry for logged in entries if isinstance(logged.entry, LogTokens)]
    lines = sorted(story, key=lambda line: line.at_ms)
    return {
        "id": fold.public_id,
        "object": "request.explanation",
        "model": fold.model,
        "created": fold.created,
        "status": _status(fold, record),
        "attempts": max([record.attempt if record else 1, *_figures(lines, "attempt")], default=1),
        "crashes": record.crashes if record else 0,
        "owner": str(record.owner) if record and record.owner else None,
        "workers": _workers(lines),
        "tokens": _tokens(fold, lines),
        "transfers": _transfers(lines),
        "times": _times(tokens, _end(entries), lines, created),
        "timeline": _timeline(tokens, _end(entries), lines, created),
        "numerics": "exactly once; the same text as without faults is promised for float32 on one kind of device, except at rounding ties",
    }


def _status(fold: Fold, record: Record | None) -> str:
    if fold.transcript.end is not None:
        return str(fold.transcript.end.phase)
    return str(record.phase) if record else "unknown"


def _end(entries: Sequence[LoggedEntry]) -> LogEnd | None:
    return next((logged.entry for logged in entries if isinstance(logged.entry, LogEnd)), None)


def _number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _figures(lines: Sequence[StoryLine], *names: str) -> list[int]:
    """Every figure that the story tells under one of these names."""
    return [int(value) for line in lines for name in names if _number(value := line.data.get(name))]


def _workers(lines: Sequence[StoryLine]) -> Json:
    """Who was considered, who gave a head start and who owned, in order of appearance."""
    named: dict[str, dict[str, None]] = {"considered": {}, "assisted": {}, "owned": {}}
    for line in lines:
        considered = line.data.get("considered")
        for worker in considered if isinstance(considered, list | tuple | dict) else ():
            named["considered"][str(worker)] = None
        for key, role in (("assist_worker", "assisted"), ("source", "assisted"), ("owner", "owned")):
            if isinstance(worker := line.data.get(key), str) and worker:
                named[role][worker] = None
    return {role: list(workers) for role, workers in named.items()}


def _tokens(fold: Fold, lines: Sequence[StoryLine]) -> Json:
    """Where the prompt was computed: the cut is how much of it the owner took over."""
    cut = max(_figures(lines, "cut"), default=0)
    prompt = fold.transcript.prompt_tokens
    recomputed = sum(_figures(lines, "recomputed"))
    return {
        "prompt": prompt,
        "generated": fold.transcript.generated,
        "cut": cut,
        "head_start": cut,
        "owner_prefill": prompt - cut,
        "recomputed": recomputed,
    }


def _transfers(lines: Sequence[StoryLine]) -> Json:
    moved = [line for line in lines if _number(line.data.get("bytes"))]
    seconds = [float(value) for line in moved if _number(value := line.data.get("seconds"))]
    return {"count": len(moved), "bytes": sum(_figures(moved, "bytes")), "seconds": round(sum(seconds), 6)}


def _times(tokens: Sequence[LogTokens], end: LogEnd | None, lines: Sequence[StoryLine], created: int) -> Json:
    placed = next((line.at_ms for line in lines if "owner" in line.data), None)
    first = tokens[0].at_ms if tokens else None
    return {
        "queued_ms": placed - created if placed is not None else None,
        "ttft_ms": first - created if first is not None else None,
        "inter_token_ms": _gaps(tokens),
        "total_ms": end.at_ms - created if end is not None else None,
    }


def _gaps(tokens: Sequence[LogTokens]) -> Json:
    """Between log entries, spread over the tokens of the later one."""
    gaps = sorted((later.at_ms - earlier.at_ms) / max(1, len(later.token_ids)) for earlier, later in pairwise(tokens))
    if not gaps:
        return {"count": 0, "mean": None, "p50": None, "p99": None, "max": None}
    return {
        "count": len(gaps),
        "mean": round(sum(gaps) / len(gaps), 3),
        "p50": round(gaps[len(gaps) // 2], 3),
        "p99": round(gaps[min(len(gaps) - 1, len(gaps) * 99 // 100)], 3),
        "max": round(gaps[-1], 3),
    }


def _timeline(tokens: Sequence[LogTokens], end: LogEnd | None, lines: Sequence[StoryLine], created: int) -> list[Json]:
    """The story, with the first token and the end put in from the log, in order of time."""
    rows: list[tuple[int, Json]] = [(created, {"who": "gateway", "what": "submitted", "data": {}})]
    rows += [(line.at_ms, {"who": line.who, "what": line.what, "data": line.data}) for line in lines]
    if tokens:
        rows.append((tokens[0].at_ms, {"who": "log", "what": "first token", "data": {"index": 0}}))
    if end is not None:
        data: Json = {"error": end.error, "code": end.code} if end.error else {}
        rows.append((end.at_ms, {"who": "log", "what": str(end.phase), "data": data}))
    return [{"at_ms": at_ms - created, **row} for at_ms, row in sorted(rows, key=lambda row: row[0])]
