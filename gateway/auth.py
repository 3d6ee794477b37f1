"""API keys: who calls. Keys stand nowhere but in the settings; everything that is compared or stored is a digest."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.api_keys import KeyRule, digest
from gateway.errors import Unauthorized
from shared.rates import NO_RATES, Rates


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose requests a caller makes and may see."""

    owner_key: str = ""
    """32 hexadecimal digits, empty where no keys are needed."""
    rates: Rates = NO_RATES


class Keyring:
    """The keys that callers may send; an empty one lets everybody in as the one nameless tenant. `rates` are of keys without their own."""

    def __init__(self, rules: Iterable[KeyRule] = (), rates: Rates = NO_RATES) -> None:
        self._rules = tuple(rules)
        self._rates = rates

    def __repr__(self) -> str:
        return f"<Keyring [{len(self._rules)} keys]>"

    def tenant_of(self, authorization: str) -> Tenant:
        """Raises `Unauthorized`."""
        if not self._rules:
            return Tenant("", self._rates)
        scheme, _, key = authorization.partition(" ")
        sent = digest("key", key.strip())
        # Digests of one length, and every one of them, whichever matches: the time says nothing.
        matches = [rule for rule in self._rules if hmac.compare_digest(sent, rule.digest)]
        if scheme.lower() != "bearer" or not matches:
            raise Unauthorized("Send one of this server's API keys as 'Authorization: Bearer KEY'.")
        own = matches[0].rates
        rates = Rates(own.requests or self._rates.requests, own.tokens or self._rates.tokens)
        return Tenant(digest("owner", key.strip()).hex()[:32], rates)

    def owner_of(self, authorization: str) -> str:
        """`Tenant.owner_key`. Raises `Unauthorized`."""
        return self.tenant_of(authorization).owner_key


def salt_of(owner_key: str) -> str:
    """What separates a tenant's cached prefixes from another's; the nameless tenant has none."""
    return digest("salt", owner_key).hex()[:32] if owner_key else ""
