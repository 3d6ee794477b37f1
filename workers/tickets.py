"""Tickets for pulls: who asks for KV proves that it belongs to the pool, for this one transfer and nothing else.

A ticket is HMAC-SHA256 under the pool's key over everything that says what is sent and where to: sender, transfer, head start,
request, attempt, requester, span, address, layout and expiry. The sender refuses a pull without a valid one.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shared.clock import SystemClock
from shared.errors import ConfigError
from shared.messages import Pull
from shared.types import WorkerRef

log = logging.getLogger(__name__)

TICKET_MS = 2 * 3600 * 1000
"""Longer than clocks are wrong: one that is stepped by an hour must not stop hand-overs. What a ticket opens is gone far sooner."""
MIN_SECRET_CHARS = 16


@dataclass(frozen=True, slots=True)
class Tickets:
    """Makes tickets and checks them, under one key."""

    key: bytes = field(default=b"", repr=False)
    wall_ms: Callable[[], int] = field(default=SystemClock().wall_ms, repr=False)

    @classmethod
    def of_pool(cls, pool: str, secret: str, redis_url: str) -> Tickets:
        """Under the pool's secret; without one, under the message server's password, which everybody in the pool has, too."""
        if not secret:
            secret = unquote(urlsplit(redis_url).password or "")
            if not secret:
                log.warning("no pool secret and no password at the message server: who reaches both can pull KV; set HEADSTART_POOL_SECRET")
        return cls(hashlib.sha256(f"headstart tickets\0{pool}\0{secret}".encode()).digest())

    def signed(self, pull: Pull, sender: WorkerRef) -> Pull:
        """`pull`, good for `sender` until its expiry."""
        pull = replace(pull, expires_ms=self.wall_ms() + TICKET_MS)
        return replace(pull, ticket=self._ticket(pull, sender))

    def complaint(self, pull: Pull, sender: WorkerRef) -> str:
        """Why `sender` must not answer this pull; empty: it may."""
        if not hmac.compare_digest(pull.ticket, self._ticket(pull, sender)):
            return "no valid ticket: do both workers have the same HEADSTART_POOL_SECRET?" if pull.ticket else "no ticket"
        if self.wall_ms() > pull.expires_ms:
            return "the ticket has expired"
        return ""

    def _ticket(self, pull: Pull, sender: WorkerRef) -> bytes:
        return hmac.new(self.key, _message(pull, sender), hashlib.sha256).digest()


def pool_secret_of(file: Path | None, variable: str) -> str:
    """The pool's secret: the text of a file, else an environment variable's. Raises `ConfigError` for one that can be guessed."""
    try:
        secret = file.read_text(encoding="utf-8").strip() if file else variable.strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--pool-secret-file {file} cannot be read ({type(error).__name__})") from None
    if (file or secret) and len(secret) < MIN_SECRET_CHARS:
        named = f"--pool-secret-file {file}" if file else "HEADSTART_POOL_SECRET"
        raise ConfigError(f"{named}: a pool secret has at least {MIN_SECRET_CHARS} characters; `openssl rand -hex 32` makes one")
    return secret


OPEN = Tickets(wall_ms=lambda: 0)
"""Under a key that everybody knows: for tests and the simulator."""


def _message(pull: Pull, sender: WorkerRef) -> bytes:
    """Every field with its length, so that no two pulls read the same."""
    named = (pull.transfer, pull.assist, pull.request_id, pull.attempt, pull.span.start, pull.span.stop, pull.requester, pull.expires_ms)
    fields = [b"pull 1", str(sender).encode(), *(str(one).encode() for one in named), pull.address, pull.fingerprint]
    return b"".join(b"%d:%s" % (len(one), one) for one in fields)
