"""Who keeps worker processes on which host: leases of the agents, found without any configuration beyond the server."""

from __future__ import annotations

from shared import scripts
from shared.codec import encode
from shared.messages import AgentInfo
from shared.redis_base import RedisBase
from shared.redis_fabric import RedisFabric


class AgentRegistry(RedisBase):
    """The agents of one pool."""

    @classmethod
    def of(cls, fabric: RedisFabric) -> AgentRegistry:
        """Over an open fabric, which its opener closes."""
        return cls(fabric.connection, fabric.keys, fabric.settings)

    async def renew(self, info: AgentInfo, ttl_s: float) -> bool:
        """Takes or renews the lease of this host, with what its agent runs now; false if another agent holds it."""
        return await self._lease(info, max(1, round(ttl_s * 1000)))

    async def leave(self, info: AgentInfo) -> None:
        """Gives the lease back; another's is left alone."""
        await self._lease(info, 0)

    async def _lease(self, info: AgentInfo, ttl_ms: int) -> bool:
        keys = [self.keys.agent(info.host), self.keys.agents]
        return bool(await self.connection.run(scripts.LEASE_AGENT(keys, info.host, encode(info), ttl_ms, info.incarnation)))

    async def agents(self) -> tuple[AgentInfo, ...]:
        """Those whose lease holds, in order of their hosts."""
        infos = await self.connection.run(scripts.MEMBERS([self.keys.agents], self.keys.agent("")))
        readable = (agent for info in infos for agent in self._readable(self.keys.agents, info, (AgentInfo,)))
        return tuple(sorted(readable, key=lambda info: info.host))
