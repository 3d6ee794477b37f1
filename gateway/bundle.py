"""A completion of several prompts: one request per prompt in the pool, one answer for the client.

Part 0 bears the answer's id and says how many parts there are; part `k` is the request `<id>-<k>`. The parts run side by side. Their
events are told prompt after prompt and numbered through: an event's number depends on the logs alone, so any gateway can resume.
A part that fails ends the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.chunks import usage_of
from gateway.completions import CompletionFold
from gateway.fold import ApiHead, Event, Json
from gateway.logprobs import TokenNames
from shared.fabric import LogHead
from shared.messages import LogEnd, LogEntry
from shared.types import Phase, RequestId


def part_id(bundle: RequestId, part: int) -> RequestId:
    return RequestId(f"{bundle}-{part}") if part else bundle


class BundleFold(CompletionFold):
    """The parts' folds as one; itself it folds nothing."""

    def __init__(self, heads: Sequence[LogHead], names: TokenNames) -> None:
        super().__init__(heads[0], ApiHead.from_json(heads[0].api), names)
        self.parts = tuple(CompletionFold(head, ApiHead.from_json(head.api), names) for head in heads)

    @property
    def end(self) -> LogEnd | None:
        """The first failure, or the last end once all have ended."""
        ends = [part.end for part in self.parts]
        failed = [end for end in ends if end is not None and end.phase is not Phase.FINISHED]
        return failed[0] if failed else ends[-1] if all(ends) else None

    @property
    def ended(self) -> bool:
        return self.end is not None

    @property
    def failed(self) -> bool:
        return self.end is not None and self.end.phase is not Phase.FINISHED

    @property
    def request_ids(self) -> tuple[RequestId, ...]:
        return tuple(part.request_id for part in self.parts)

    def opening_of(self, part: CompletionFold) -> list[Event]:
        return self._renumbered(part.opening())

    def feed_of(self, part: CompletionFold, entries: Iterable[LogEntry]) -> list[Event]:
        return self._renumbered(part.feed_all(entries))

    def closing(self) -> list[Event]:
        """What comes behind the last part."""
        return self._numbered(iter([self.usage_chunk(self.usage())] if self.api.include_usage else []))

    def usage(self) -> Json:
        told = [part.transcript for part in self.parts]
        sums = (sum(one.prompt_tokens for one in told), sum(one.generated for one in told), sum(one.cached_tokens for one in told))
        return usage_of(*sums)

    def choices(self) -> list[Json]:
        return [choice for part in self.parts for choice in part.choices()]

    def _renumbered(self, events: list[Event]) -> list[Event]:
        return self._numbered(iter([(event.name, event.data) for event in events]))
