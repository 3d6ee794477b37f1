"""API keys at rest: a file holds names, digests and limits, never a key.

    # name   digest          limits, a minute
    team-a   sha256:3f5a...  requests=600 tokens=100000

`headstart new-key` writes such lines. Keys are random (256 bits), so a plain digest cannot be guessed back.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import ConfigError
from shared.rates import NO_RATES, Rates

SCHEME = "sha256:"
PREFIX = "sk-hs-"
"""Of keys that we make: scanners for leaked secrets find it."""


@dataclass(frozen=True, slots=True)
class KeyRule:
    """One key that callers may send, by its digest, and what it may do."""

    digest: bytes = field(repr=False)
    name: str = ""
    rates: Rates = NO_RATES
    """Its own; where one is 0, the gateway's counts."""


def digest(purpose: str, text: str) -> bytes:
    """What is stored for one purpose says nothing about another."""
    return hashlib.sha256(f"{purpose}\0{text}".encode("utf-8", "surrogatepass")).digest()


def rule_of(key: str, name: str = "", rates: Rates = NO_RATES) -> KeyRule:
    return KeyRule(digest("key", key), name, rates)


def new_key() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def line_of(rule: KeyRule) -> str:
    """As it stands in a file."""
    limits = [f"{kind}={most}" for kind, most in (("requests", rule.rates.requests), ("tokens", rule.rates.tokens)) if most]
    return " ".join([rule.name or "unnamed", SCHEME + rule.digest.hex(), *limits])


def rules_in(path: Path | None) -> tuple[KeyRule, ...]:
    """The keys of a file; empty lines and those that start with `#` say nothing. Raises `ConfigError`, which never quotes a line."""
    if path is None:
        return ()
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--api-keys-file {path} cannot be read ({type(error).__name__})") from None
    rules = tuple(_rules(path, lines))
    if not rules:
        raise ConfigError(f"--api-keys-file {path} holds no key: `headstart new-key NAME` makes a line for it")
    return rules


def _rules(path: Path, lines: list[list[str]]) -> Iterator[KeyRule]:
    for number, words in enumerate(lines, 1):
        if words and not words[0].startswith("#"):
            try:
                yield _rule(words)
            except ValueError as error:
                raise ConfigError(f"--api-keys-file {path}, line {number}: {error}") from None


def _rule(words: list[str]) -> KeyRule:
    if len(words) < 2 or not words[1].startswith(SCHEME):
        raise ValueError(
            "write NAME sha256:DIGEST and limits; `headstart new-key NAME` makes such a line, --stdin from a key that you have"
        )
    try:
        known = bytes.fromhex(words[1].removeprefix(SCHEME))
    except ValueError:
        known = b""
    if len(known) != hashlib.sha256().digest_size:
        raise ValueError("the digest is not 64 hexadecimal digits")
    limits = dict(word.partition("=")[::2] for word in words[2:])
    if not set(limits) <= {"requests", "tokens"} or not all(text.isdecimal() for text in limits.values()):
        raise ValueError("limits are requests=N and tokens=N, whole numbers a minute")
    return KeyRule(known, words[0], Rates(int(limits.get("requests", 0)), int(limits.get("tokens", 0))))
