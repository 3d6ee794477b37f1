"""What the parts of the Redis fabric stand on."""

from __future__ import annotations

import logging
from typing import TypeVar

from shared.codec import decode
from shared.connection import FabricConnection
from shared.errors import DecodeError
from shared.fabric_settings import FabricSettings
from shared.keys import Keys

log = logging.getLogger(__name__)
T = TypeVar("T")


class RedisBase:
    """A connection, the keys of one pool, and the settings."""

    def __init__(self, connection: FabricConnection, keys: Keys, settings: FabricSettings) -> None:
        self.connection = connection
        self.keys = keys
        self.settings = settings
        self.undecodable = 0
        """Entries that were skipped because no message of our version was in them."""

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
            self.undecodable += 1
            log.warning("skipped in %s: %s", where, error)
            return ()
