"""Profiles in the server: what one worker measured, another of the same kind need not measure again."""

from __future__ import annotations

from shared.profile_document import ProfileDocument, ProfileKey
from shared.redis_base import RedisBase
from shared.redis_fabric import RedisFabric


class ProfileRegistry(RedisBase):
    """The profiles of one pool."""

    @classmethod
    def of(cls, fabric: RedisFabric) -> ProfileRegistry:
        """Over an open fabric, which its opener closes."""
        return cls(fabric.connection, fabric.keys, fabric.settings)

    async def store(self, document: ProfileDocument) -> None:
        await self.connection.command("SET", self._name(document.key), document.to_json(), "EX", self.settings.profile_ttl_s)

    async def find(self, key: ProfileKey) -> ProfileDocument | None:
        """Whoever finds one renews its expiry. Raises `ConfigError` for one that cannot be read, with its key."""
        raw = await self.connection.command("GETEX", self._name(key), "EX", self.settings.profile_ttl_s)
        return None if raw is None else ProfileDocument.from_json(raw, self._name(key))

    def _name(self, key: ProfileKey) -> str:
        return self.keys.profile(key.digest)
