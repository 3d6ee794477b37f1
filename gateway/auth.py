"""API keys: who calls. Keys stand nowhere but in the settings; everything that is compared or stored is a digest."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from gateway.errors import Unauthorized


class Keyring:
    """The keys that callers may send; an empty one lets everybody in as the one nameless tenant."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(_digest("key", key) for key in keys)

    def __repr__(self) -> str:
        return f"<Keyring [{len(self._digests)} keys]>"

    def owner_of(self, authorization: str) -> str:
        """Whose requests this caller makes and may see: 32 hexadecimal digits, empty where no keys are needed. Raises `Unauthorized`."""
        if not self._digests:
            return ""
        scheme, _, key = authorization.partition(" ")
        sent = _digest("key", key.strip())
        # Digests of one length, and every one of them, whichever matches: the time says nothing.
        matches = sum(hmac.compare_digest(sent, known) for known in self._digests)
        if scheme.lower() != "bearer" or not matches:
            raise Unauthorized("Send one of this server's API keys as 'Authorization: Bearer KEY'.")
        return _digest("owner", key.strip()).hex()[:32]


def salt_of(owner_key: str) -> str:
    """What separates a tenant's cached prefixes from another's; the nameless tenant has none."""
    return _digest("salt", owner_key).hex()[:32] if owner_key else ""


def _digest(purpose: str, text: str) -> bytes:
    """What is stored for one purpose says nothing about another."""
    return hashlib.sha256(f"{purpose}\0{text}".encode("utf-8", "surrogatepass")).digest()
