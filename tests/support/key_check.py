"""No key without an expiry, no key outside the table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis, RedisCluster

from shared.keys import row_of


@contextmanager
def well_kept(url: str) -> Iterator[str]:
    """A server that is empty before; afterwards every key it holds must be as the table says, and goes."""
    client = sync_client(url)
    try:
        client.flushall()
        yield url
        complaints = misplaced_keys(client)
        assert not complaints, complaints
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
        elif kind != row.kind:
            complaints.append(f"{key} is a {kind}, the table says {row.kind}")
        elif ttl == -1 and not row.permanent:
            complaints.append(f"{key} has no expiry")
    return complaints
