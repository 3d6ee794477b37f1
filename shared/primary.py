"""Connections to whichever of several servers is the primary: after a fail-over, the next connection finds the new one.

Each new connection asks the addresses in turn, the last one that was right first, and takes the first that says it is a primary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import exceptions as foreign
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url

_WHERE = ("host", "port", "path", "username", "password")


class _ToPrimary:
    """Mixed into a connection of the client library: it has its address only once it is connected."""

    def __init__(self, *, addresses: list[dict[str, Any]], need_fsync: bool, **options: Any) -> None:
        self._addresses = addresses
        """Shared by all connections of a client; the one that was right comes first."""
        self._need_fsync = need_fsync
        super().__init__(**options)

    async def connect(self) -> None:
        if self.is_connected:  # type: ignore[attr-defined]
            return
        refusals = []
        for address in list(self._addresses):
            for name, value in address.items():
                setattr(self, name, value)
            try:
                await super().connect()  # type: ignore[misc]
            except (foreign.AuthenticationError, foreign.NoPermissionError):
                raise
            except (foreign.RedisError, OSError, TimeoutError) as error:
                refusals.append(f"{_name(address)}: {error}")
                continue
            self._addresses.remove(address)
            self._addresses.insert(0, address)
            return
        raise foreign.ConnectionError(f"none of the addresses has a primary: {'; '.join(refusals)}")

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Before anything else is said: a subscription could not be taken back any more."""
        await super().on_connect_check_health(check_health=check_health)  # type: ignore[misc]
        if (await self._ask("ROLE"))[0] != b"master":
            raise foreign.ConnectionError("it is a replica")
        if self._need_fsync and (await self._ask("CONFIG", "GET", "appendfsync"))[1:] != [b"always"]:
            raise foreign.ConnectionError("--durability fsync cannot be kept: it has not `appendfsync always`")

    async def _ask(self, *command: str) -> Any:
        await self.send_command(*command)  # type: ignore[attr-defined]
        return await self.read_response()  # type: ignore[attr-defined]


class _Tcp(_ToPrimary, Connection):
    pass


class _Tls(_ToPrimary, SSLConnection):
    pass


class _Unix(_ToPrimary, UnixDomainSocketConnection):
    pass


_ROAMING: dict[type, type] = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}


def pool_of_primary(urls: Sequence[str], *, need_fsync: bool = False, **options: Any) -> ConnectionPool:
    """Of addresses of one kind; options of TLS and the database are the first one's. `need_fsync`: with `appendfsync always`."""
    pool = ConnectionPool.from_url(urls[0], **options)
    pool.connection_class = _ROAMING[pool.connection_class]
    pool.connection_kwargs["need_fsync"] = need_fsync
    pool.connection_kwargs["addresses"] = [_address(url) for url in urls]
    return pool


def _address(url: str) -> dict[str, Any]:
    parsed = parse_url(url)
    return {name: parsed[name] for name in _WHERE if name in parsed}  # type: ignore[literal-required]


def _name(address: dict[str, Any]) -> str:
    return str(address.get("path") or f"{address.get('host', 'localhost')}:{address.get('port', 6379)}")
