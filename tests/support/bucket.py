"""What `rate.lua` computes, for a fabric without a server."""

from __future__ import annotations

from dataclasses import dataclass

from shared.rates import Allowance, Rates

MINUTE_MS = 60_000


@dataclass(slots=True)
class Bucket:
    """One caller's state."""

    requests: float = 0.0
    tokens: float = 0.0
    at_ms: int = 0

    def charge(self, rates: Rates, requests: int, tokens: int, now_ms: int) -> Allowance:
        """Takes both or nothing; a negative number gives back."""
        since = max(0, now_ms - self.at_ms)
        kinds = ((rates.requests, self.requests, requests), (rates.tokens, self.tokens, tokens))
        used = [max(0.0, was - since * limit / MINUTE_MS) for limit, was, _ in kinds]
        wanted = [max(0.0, now + taken) if limit else 0.0 for now, (limit, _, taken) in zip(used, kinds, strict=True)]
        granted = all(after <= limit or taken <= 0 for after, (limit, _, taken) in zip(wanted, kinds, strict=True))
        waits = [_wait_s(now, taken, limit) for now, (limit, _, taken) in zip(used, kinds, strict=True)]
        self.requests, self.tokens = wanted if granted else used
        self.at_ms = now_ms
        return Allowance(
            granted,
            max(0, int(rates.requests - self.requests)),
            max(0, int(rates.tokens - self.tokens)),
            _sink_s(self.requests, rates.requests),
            _sink_s(self.tokens, rates.tokens),
            0.0 if granted else -1.0 if min(waits) < 0 else max(waits),
        )


def _wait_s(used: float, taken: int, limit: int) -> float:
    """Until `taken` fits; -1: never."""
    if limit and taken > limit:
        return -1.0
    return _sink_s(max(0.0, used + taken - limit), limit) if taken > 0 else 0.0


def _sink_s(used: float, limit: int) -> float:
    return used * MINUTE_MS / limit / 1000 if limit else 0.0
