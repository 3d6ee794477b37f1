"""How fast one caller may ask: allowances that fill steadily, and what is left of them.

An allowance of `limit` a minute is a bucket of that size: `used` sinks by `limit / 60` a second, and what would lift it above
the limit is refused. The script `rate.lua` computes it, on the server's clock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rates:
    """Per minute; 0: no limit."""

    requests: int = 0
    tokens: int = 0

    def __bool__(self) -> bool:
        return bool(self.requests or self.tokens)


NO_RATES = Rates()


@dataclass(frozen=True, slots=True)
class Allowance:
    """The answer to a charge. Where a kind has no limit, 0 of it is left and nothing is to come."""

    granted: bool
    requests_left: int = 0
    tokens_left: int = 0
    requests_full_s: float = 0.0
    """Seconds until all of it is there again."""
    tokens_full_s: float = 0.0
    retry_after_s: float = 0.0
    """Seconds until this charge would be granted, if nobody else takes any; below 0: never, it is larger than the limit."""
