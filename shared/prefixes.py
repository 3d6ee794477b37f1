"""Names of a prompt's beginnings, so that a scheduler can tell who holds them in cache without seeing a token."""

from __future__ import annotations

from array import array
from hashlib import blake2b

from shared.types import GRANULE_TOKENS

PREFIX_BYTES = 8
MAX_PREFIX_GRANULES = 256
"""A prompt's first 16,384 tokens: what lies behind them decides no placement."""


def prefix_hashes(prompt: tuple[int, ...], salt: str) -> bytes:
    """Chained hashes of the prompt's first whole granules under the tenant's salt, `PREFIX_BYTES` each.

    Equal hashes mean equal beginnings of one tenant, but for chance (2^-64): a hint for placement, never proof of contents.
    """
    granules = min(len(prompt) // GRANULE_TOKENS, MAX_PREFIX_GRANULES)
    tokens = memoryview(array("i", prompt[: granules * GRANULE_TOKENS]).tobytes())
    size = GRANULE_TOKENS * array("i").itemsize
    parent = blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=PREFIX_BYTES, person=b"headstart prefix").digest()
    hashes = bytearray()
    for at in range(granules):
        parent = blake2b(parent + tokens[at * size : (at + 1) * size], digest_size=PREFIX_BYTES).digest()
        hashes += parent
    return bytes(hashes)


def split_hashes(prefix: bytes, tokens: int) -> list[bytes]:
    """The hashes of the whole granules among the first `tokens`, shortest beginning first."""
    stop = min(len(prefix), tokens // GRANULE_TOKENS * PREFIX_BYTES)
    return [prefix[at : at + PREFIX_BYTES] for at in range(0, stop, PREFIX_BYTES)]
