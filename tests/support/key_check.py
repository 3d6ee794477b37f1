"""No key without an expiry, no key outside the table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis import Redis, RedisCluster

from shared.keys import ANY_KIND, row_of


@dataclass(frozen=True)
class TestServer:
    """A server of the test session, and a look into it from outside the fabric."""

    __test__ = False
    url: str
    client: Any

    @contextmanager
    def well_kept(self) -> Iterator[str]:
        """Empty before; afterwards every key it holds must be as the table says."""
        self.client.flushall()
        yield self.url
        complaints = misplaced_keys(self.client)
        assert not complaints, complaints


@contextmanager
def looked_into(url: str) -> Iterator[TestServer]:
    client = sync_client(url)
    try:
        yield TestServer(url, client)
    finally:
        client.close()


def sync_client(url: str) -> Any:
    with Redis.from_url(url) as client:
        is_cluster = client.info("cluster")["cluster_enabled"]
    return RedisCluster.from_url(url) if is_cluster else Redis.from_url(url)


def misplaced_keys(client: Any) -> list[str]:
    """A complaint for each key that the table does not know, knows as another type, or wants to expire."""
    complaints = []
    for key in map(bytes.decode, client.scan_iter(count=1000)):
        row, kind, ttl = row_of(key), client.type(key).decode(), client.ttl(key)
        if kind == "none":
            continue  # It expired meanwhile.
        if row is None:
            complaints.append(f"{key} is not in the table")
        elif row.kind not in (kind, ANY_KIND):
            complaints.append(f"{key} is a {kind}, the table says {row.kind}")
        elif ttl == -1 and not row.permanent:
            complaints.append(f"{key} has no expiry")
    return complaints
