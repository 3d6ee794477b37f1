"""What the parts of the Redis fabric stand on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from shared.codec import decode
from shared.connection import FabricConnection
from shared.errors import DecodeError, UnknownVersion
from shared.fabric_settings import FabricSettings
from shared.keys import Keys

log = logging.getLogger(__name__)


def _unheard(_: str) -> None: ...


T = TypeVar("T")


class RedisBase:
    """A connection, the keys of one pool, and the settings."""

    def __init__(self, connection: FabricConnection, keys: Keys, settings: FabricSettings) -> None:
        self.connection = connection
        self.keys = keys
        self.settings = settings
        self.undecodable = 0
        """Entries that were skipped because no message of our version was in them."""
        self.on_undecodable: Callable[[str], None] = _unheard
        """Told of each of them: `version` (too far from ours) or `bytes` (no message at all)."""
        self._told: set[tuple[str, int]] = set()
        """Where which unknown version was met: said once."""

    async def _read_stream(
        self, stream: str, after: str, count: int, block_ms: int, kinds: tuple[type[T], ...]
    ) -> tuple[tuple[str, T], ...]:
        """Messages after an id. Entries that cannot be read are skipped: they must not stop the stream."""
        while True:
            entries = await self.connection.read(stream, after, count, block_ms)
            messages = [
                (entry_id, message) for entry_id, fields in entries for message in self._readable(stream, fields.get(b"m", b""), kinds)
            ]
            if messages or not entries:
                return tuple(messages)
            after = entries[-1][0]

    def _readable(self, where: str, raw: bytes, kinds: tuple[type[T], ...]) -> tuple[T, ...]:
        """One message, or none of a version we speak: counted and logged."""
        try:
            return (decode(raw, *kinds),)
        except DecodeError as error:
            self._skip(where, error)
            return ()

    def _skip(self, where: str, error: DecodeError) -> None:
        self.undecodable += 1
        version = error.version if isinstance(error, UnknownVersion) else 0
        self.on_undecodable("version" if version else "bytes")
        if not version:
            log.warning("skipped in %s: %s", where, error)
        elif (where, version) not in self._told:
            self._told.add((where, version))
            log.error("refused in %s, now and from now on: %s", where, error)
