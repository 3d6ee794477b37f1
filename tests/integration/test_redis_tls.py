"""The message server over TLS, with a password and certificates on both sides; and each thing that can be wrong with them."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from shared.addresses import plain_url
from shared.connection import open_connection
from shared.errors import ConfigError, FabricUnavailable
from shared.redis_fabric import RedisFabric
from shared.server import EmbeddedServer, free_port
from tests.contract.words import END, R1, accept, tokens
from tests.support.certificates import Authority
from tests.support.gateway_server import until
from tests.support.redis_server import system_server

PASSWORD = "of-a-test"


def sockets() -> int:
    """Of this event loop. After a refusal the library closes without waiting for TLS's goodbye: the tests wait for it."""
    return len(asyncio.get_running_loop()._selector.get_map())  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: TLS to the message server is NOT tested")
    authority = Authority(tmp_path_factory.mktemp("ca"))
    for name in ("server", "client"):
        authority.sign(name)
    return authority


@pytest.fixture(scope="module")
def place(authority: Authority) -> Iterator[str]:
    """Host and port of a server that speaks TLS and wants a client's certificate."""
    linked = subprocess.run(["ldd", str(system_server())], capture_output=True, text=True, check=False).stdout
    if "libssl" not in linked:
        pytest.skip("this redis-server is built without TLS: it is NOT tested")
    port = free_port()
    files = (f"tls-cert-file {authority.certificate('server')}", f"tls-key-file {authority.key('server')}")
    options = (f"tls-port {port}", *files, f"tls-ca-cert-file {authority.certificate('ca')}", "tls-auth-clients yes")
    with EmbeddedServer(executable=system_server(), loopback=True, password=PASSWORD, options=options):
        yield f"127.0.0.1:{port}"


def url(place: str, password: str = "of-a-test", **options: str) -> str:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"rediss://:{password}@{place}/0?{query}"


def client(authority: Authority) -> dict[str, str]:
    return {"ssl_certfile": authority.certificate("client"), "ssl_keyfile": authority.key("client")}


async def test_a_request_lives_over_tls(authority: Authority, place: str) -> None:
    before = sockets()
    fabric = await RedisFabric.connect(url(place, ssl_ca_certs=authority.certificate("ca"), **client(authority)))
    try:
        await accept(fabric, R1)
        many = tuple(tokens(at, 5) for at in range(3000))
        await fabric.append(R1, 1, many, END)
        assert [entry.entry for entry in await fabric.read_log(R1)] == [*many, END]
        assert await fabric.read_submissions("0-0", block_ms=5)
        assert str(authority.folder) not in repr(fabric)
        assert "test" not in repr(fabric)
    finally:
        await fabric.disconnect()
    await until(lambda: sockets() <= before)


async def test_what_is_wrong_is_named(authority: Authority, place: str) -> None:
    ca, before = authority.certificate("ca"), sockets()
    for bad in (
        url(place, **client(authority)),
        url(place, ssl_ca_certs=authority.certificate("client"), **client(authority)),
        url(place, ssl_ca_certs=ca),
    ):
        with pytest.raises((ConfigError, FabricUnavailable), match=r"TLS|reset|closed") as refused:
            await open_connection(bad)
        assert "of-a" not in str(refused.value)
    with pytest.raises(ConfigError, match="password"):
        await open_connection(url(place, "wrong", ssl_ca_certs=ca, **client(authority)))
    await until(lambda: sockets() <= before)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ("rediss://:hunter2@h/0?ssl_ca_cert=x", "unknown option 'ssl_ca_cert'"),
        ("rediss://:hunter2@h/0?ssl_ca_certs=/no/where", "is no file"),
        ("redis://:hunter2@h/0?ssl_certfile=x", "use rediss://"),
        ("https://:hunter2@h", "rediss://"),
    ],
)
def test_an_address_that_cannot_work_is_refused_before(bad: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as refused:
        plain_url(bad)
    assert "hunter2" not in str(refused.value)


def test_an_unchecked_certificate_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        assert plain_url("rediss://h/0?ssl_cert_reqs=none").startswith("rediss://h")
    assert "not checked" in caplog.text
    assert plain_url("unix:///tmp/x?db=1") == "unix:///tmp/x?db=1"
