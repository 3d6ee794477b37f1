"""`GET /v1/requests/{id}/explain`: one request's timeline, from its record, its log and what its workers told. Pure; never prompt text.

Scheduler and workers tell free-form lines; those summed up here are `assigned` (one per attempt that got an owner: who was
considered, where it was cut), `head_start` and `pulled`. Every line stands in the timeline, whatever it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from gateway.fold import Fold, Json
from shared.fabric import LoggedEntry, Record
from shared.messages import LogEnd, LogTokens, StoryLine

NUMERICS = (
    "Every token index is delivered exactly once. The same text as without faults is promised for float32 on one kind of device, "
    "except at rounding ties; with bfloat16, or across a conversion of types, only exactly once is."
)

TARGETS = ("ttft_target_s", "itl_target_s")


def explain(fold: Fold, entries: Sequence[LoggedEntry], record: Record | None, story: Sequence[StoryLine]) -> Json:
    """Times are milliseconds since submission, each by the clock of whoever wrote the line. `fold` has seen all `entries`."""
    created = fold.head.spec.created_ms
    tokens = [logged.entry for logged in entries if isinstance(logged.entry, LogTokens)]
    lines = sorted(story, key=lambda line: line.at_ms)
    end = fold.transcript.end
    attempts = _attempts(lines, created)
    times = _times(tokens, end, attempts, created)
    return {
        "id": fold.public_id,
        "object": "request.explanation",
        "model": fold.model,
        "created": fold.created,
        "status": str(end.phase) if end is not None else str(record.phase) if record else "unknown",
        "attempts": attempts,
        "crashes": record.crashes if record else 0,
        "owner": str(record.owner) if record and record.owner else None,
        "workers": _workers(lines, attempts),
        "tokens": _tokens(fold, attempts),
        "transfers": _transfers(lines),
        "times": times,
        "targets": _targets(times, record, attempts),
        "timeline": _timeline(tokens, end, lines, created),
        "numerics": NUMERICS,
    }


def _attempts(lines: Sequence[StoryLine], created: int) -> list[Json]:
    """One row per assignment, with what its owner found in its cache and pulled before the next one."""
    rows: list[Json] = []
    for line in lines:
        if line.what == "assigned":
            rows.append(_attempt(line, created))
        elif line.what == "cached" and rows and line.who == rows[-1]["owner"]:
            rows[-1]["cached"] = rows[-1]["cached"] or _count(line.data, "tokens")
        elif line.what == "pulled" and rows:
            rows[-1]["pulled"] = _count(rows[-1], "pulled") + _count(line.data, "good_tokens")
            rows[-1]["recomputed"] = _count(rows[-1], "recomputed") + _count(line.data, "tokens") - _count(line.data, "good_tokens")
    return rows


def _attempt(line: StoryLine, created: int) -> Json:
    copied = ("attempt", "policy", "cut", "offered", "pull_s", "saved_s", "prefix", "considered", "lost", "not_cut", "waiting", *TARGETS)
    return {
        "at_ms": line.at_ms - created,
        "owner": line.data.get("worker"),
        "source": line.data.get("source") or None,
        **{name: line.data.get(name) for name in copied},
        "cached": 0,
        "pulled": 0,
        "recomputed": 0,
    }


def _count(data: Json, name: str) -> int:
    value = data.get(name)
    return int(value) if isinstance(value, int | float) else 0


def _seconds(data: Json, name: str) -> float:
    value = data.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _workers(lines: Sequence[StoryLine], attempts: Sequence[Json]) -> Json:
    """Who was considered, who gave a head start, who owned: in order of appearance."""
    considered = [row.get("worker") for attempt in attempts for row in _rows(attempt.get("considered"))]
    gave = [line.data.get("worker") for line in lines if line.what == "head_start"]
    return {
        "considered": _names(considered),
        "gave_head_start": _names([*gave, *[attempt.get("source") for attempt in attempts]]),
        "owned": _names([attempt.get("owner") for attempt in attempts]),
    }


def _rows(value: object) -> list[Json]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list | tuple) else []


def _names(values: Sequence[object]) -> list[str]:
    return list(dict.fromkeys(value for value in values if isinstance(value, str) and value))


def _tokens(fold: Fold, attempts: Sequence[Json]) -> Json:
    """Where the prompt of the last attempt was computed. An owner that gave the head start itself has nothing to pull.

    `cached` was computed for an earlier request; of tokens that an attempt found and generated before, only the prompt's count.
    """
    prompt = fold.transcript.prompt_tokens
    last = attempts[-1] if attempts else {}
    pulled = min(_count(last, "pulled"), prompt)
    cached = min(_count(last, "cached"), prompt - pulled)
    owner, source = last.get("owner"), last.get("source")
    computed: Json = {str(source): pulled} if pulled and source else {}
    if isinstance(owner, str):
        computed[owner] = prompt - pulled - cached
    return {
        "prompt": prompt,
        "generated": fold.transcript.generated,
        "cut": _count(last, "cut"),
        "cached": cached,
        "prefill_computed_by": computed,
        "recomputed": sum(_count(attempt, "recomputed") for attempt in attempts),
    }


def _transfers(lines: Sequence[StoryLine]) -> Json:
    pulls = [line.data for line in lines if line.what == "pulled"]
    return {
        "count": len(pulls),
        "failed": sum(bool(pull.get("error")) for pull in pulls),
        "bytes": sum(_count(pull, "bytes") for pull in pulls),
        "seconds": round(sum(_seconds(pull, "seconds") for pull in pulls), 6),
    }


def _times(tokens: Sequence[LogTokens], end: LogEnd | None, attempts: Sequence[Json], created: int) -> Json:
    return {
        "queued_ms": attempts[0]["at_ms"] if attempts else None,
        "ttft_ms": tokens[0].at_ms - created if tokens else None,
        "inter_token_ms": _gaps(tokens),
        "total_ms": end.at_ms - created if end is not None else None,
    }


def _targets(times: Json, record: Record | None, attempts: Sequence[Json]) -> Json:
    """The request's own targets, or the pool's as its last placement knew them; and whether it kept them so far.

    Between tokens its mean counts. None: no target, or nothing to hold against it yet.
    """
    own = (record.submission.ttft_target_s, record.submission.itl_target_s) if record else (0.0, 0.0)
    ttft, itl = (1000 * (mine or (_seconds(attempts[-1], name) if attempts else 0.0)) for mine, name in zip(own, TARGETS, strict=True))
    gaps = times["inter_token_ms"]
    return {
        "ttft_ms": ttft or None,
        "inter_token_ms": itl or None,
        "ttft_met": _met(times["ttft_ms"], ttft),
        "inter_token_met": _met(gaps.get("mean") if isinstance(gaps, dict) else None, itl),
    }


def _met(taken_ms: object, target_ms: float) -> bool | None:
    return taken_ms <= target_ms if target_ms and isinstance(taken_ms, int | float) else None


def _gaps(tokens: Sequence[LogTokens]) -> Json:
    """Between log entries, each spread over the tokens of the later one."""
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
    """The story, with submission, first token and end put in from the log, in order of time."""
    rows: list[tuple[int, Json]] = [(created, {"who": "gateway", "what": "submitted", "data": {}})]
    rows += [(line.at_ms, {"who": line.who, "what": line.what, "data": line.data}) for line in lines]
    if tokens:
        rows.append((tokens[0].at_ms, {"who": "log", "what": "first token", "data": {"index": 0}}))
    if end is not None:
        rows.append(
            (end.at_ms, {"who": "log", "what": str(end.phase), "data": {"error": end.error, "code": end.code} if end.error else {}})
        )
    return [{"at_ms": at_ms - created, **row} for at_ms, row in sorted(rows, key=lambda row: row[0])]
