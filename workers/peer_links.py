"""What pulls take, by the host of the giver: a figure that was probed, or the profile's own, and what real pulls say of it since.

Pure: time comes in. As with step times, a pair's seconds are the believed ones times a factor: the median of measured over
believed seconds of the last pulls. A single slow pull moves nothing; a pair that has not been used for a while is believed as
before, or nobody would ever find out that it is as fast again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median_low

from shared.profile import PeerLink, Profile

LEAST_PULLS = 3
MOST_PULLS = 8
"""Few: each pull over a link that is believed too fast costs its request what it takes."""
OLDEST_S = 60.0
"""No pull counts for longer, and a pair without a younger one is forgotten but for what was probed."""
WORTH_TELLING = 0.25
"""A relative change of the factor below it is noise: transfers vary more than steps."""
BOUNDS = (0.01, 1e5)
MOST_HOSTS = 64
"""That one worker remembers, however many there are: the one whose last word is the oldest gives way."""


@dataclass(slots=True)
class _Pair:
    link_s: float
    link_bytes_per_s: float
    probed: bool
    heard_at: float
    factor: float = 1.0
    pulls: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MOST_PULLS))
    """(when, measured over believed seconds)."""

    @property
    def known(self) -> bool:
        return self.probed or len(self.pulls) >= LEAST_PULLS

    def believed(self, nbytes: float) -> float:
        return self.link_s + nbytes / self.link_bytes_per_s

    def forget(self, now: float) -> None:
        while self.pulls and self.pulls[0][0] < now - OLDEST_S:
            self.pulls.popleft()

    def believe(self) -> bool:
        """Whether the factor changed."""
        if len(self.pulls) < LEAST_PULLS:
            changed, self.factor = self.factor != 1.0, 1.0
            return changed
        ratio = min(max(median_low(ratio for _, ratio in self.pulls), BOUNDS[0]), BOUNDS[1])
        if abs(ratio / self.factor - 1) < WORTH_TELLING:
            return False
        self.factor = ratio
        return True


class PeerLinks:
    """One worker's pulls. What changes the answer of `told` returns True."""

    def __init__(self, profile: Profile) -> None:
        """Of the worker itself: its link is believed for hosts of which nothing else is known."""
        self._profile = profile
        self._pairs: dict[str, _Pair] = {}

    def told(self) -> tuple[PeerLink, ...]:
        """Every pair of which something was measured."""
        pairs = ((host, pair) for host, pair in self._pairs.items() if pair.known)
        return tuple(PeerLink(host, pair.link_s * pair.factor, pair.link_bytes_per_s / pair.factor) for host, pair in pairs)

    def seconds(self, host: str, nbytes: float) -> float:
        """That a pull of so many bytes should take."""
        pair = self._pairs.get(host)
        return pair.believed(nbytes) * pair.factor if pair else self._new(0.0).believed(nbytes)

    def probed(self, host: str, link_s: float, link_bytes_per_s: float, now: float) -> bool:
        """Measured on purpose; what earlier pulls said was of another figure."""
        self._pairs[host] = _Pair(link_s, link_bytes_per_s, True, now)
        self._make_room()
        return True

    def saw(self, host: str, nbytes: float, seconds: float, now: float) -> bool:
        """A pull of so many bytes has taken `seconds`, or has not come within them."""
        if not host or seconds <= 0:
            return False
        pair = self._pairs.setdefault(host, self._new(now))
        self._make_room()
        known = pair.known
        pair.heard_at = now
        pair.pulls.append((now, seconds / max(pair.believed(nbytes), 1e-9)))
        pair.forget(now)
        return pair.believe() or pair.known != known

    def forget(self, now: float) -> bool:
        """Old pulls count no more."""
        changed = False
        for host, pair in list(self._pairs.items()):
            known = pair.known
            pair.forget(now)
            changed |= pair.believe() or pair.known != known
            if not (pair.probed or pair.pulls):
                del self._pairs[host]
        return changed

    def _new(self, now: float) -> _Pair:
        return _Pair(self._profile.link_s, self._profile.link_bytes_per_s, False, now)

    def _make_room(self) -> None:
        while len(self._pairs) > MOST_HOSTS:
            del self._pairs[min(self._pairs, key=lambda host: self._pairs[host].heard_at)]

    def __repr__(self) -> str:
        return f"<PeerLinks {', '.join(f'{host} x{pair.factor:.2f}' for host, pair in self._pairs.items()) or 'none'}>"
