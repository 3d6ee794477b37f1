"""A job and what its request's log says, put together: the event that a core hears of it."""

from __future__ import annotations

from collections.abc import Iterable

from shared.fabric import LogHead
from shared.messages import AssistOrder, Job, LogEnd, LogEntry, LogTokens
from workers.events import Assigned, Delivered, Ordered, Unloadable, WorkerEvent


def job_event(job: Job, head: LogHead | None, entries: Iterable[LogEntry]) -> WorkerEvent:
    """`entries` are the log's, from its start, read after the fence was raised."""
    known = list(entries)
    ended = next((entry.phase for entry in known if isinstance(entry, LogEnd)), None)
    if head is None or ended is not None:
        return Unloadable(job, ended)
    if isinstance(job, AssistOrder):
        return Ordered(job, head.spec)
    return Assigned(job, head.spec, delivered_of(known))


def delivered_of(entries: Iterable[LogEntry]) -> tuple[Delivered, ...]:
    """What the log has, by choice, up to the last one that it names."""
    choices: dict[int, Delivered] = {}
    for entry in entries:
        if isinstance(entry, LogTokens):
            before = choices.get(entry.choice, Delivered())
            choices[entry.choice] = Delivered(before.token_ids + entry.token_ids, entry.finish)
    return tuple(choices.get(choice, Delivered()) for choice in range(max(choices, default=-1) + 1))
