"""The embedded server comes when asked for, and leaves nothing behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from shared.errors import ConfigError, FabricUnavailable
from shared.server import EmbeddedServer, free_port, valkey_executable
from tests.support.redis_server import system_server
from tests.support.waiting import eventually_now


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("loopback", [False, True], ids=["socket", "loopback"])
def test_a_stopped_server_leaves_no_process_no_socket_no_directory(loopback: bool) -> None:
    with EmbeddedServer(loopback=loopback) as server:
        pid, home = server.pid, server.home
        with Redis.from_url(server.url) as client:
            assert client.ping()
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("append*")["appendfsync"] == "everysec"
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert not home.exists()
    assert repr(server) == "<EmbeddedServer stopped>"
    server.stop()


def test_its_password_is_wanted_and_stands_nowhere() -> None:
    with EmbeddedServer() as server:
        password = server.url.removeprefix("unix://:").partition("@")[0]
        with Redis(unix_socket_path=str(server.home / "server.sock"), password="wrong") as stranger, pytest.raises(AuthenticationError):
            stranger.ping()
        assert server.pid is not None
        assert password not in " ".join(psutil.Process(server.pid).cmdline())
        assert not [path for path in server.home.rglob("*") if path.is_file() and password in path.read_text(errors="replace")]
        assert server.home.stat().st_mode & 0o077 == 0


def test_data_in_a_directory_of_ones_own_are_kept(tmp_path: Path) -> None:
    for found in (None, b"v"):
        with EmbeddedServer(directory=tmp_path / "data", durable=True) as server, Redis.from_url(server.url) as client:
            assert client.get("k") == found
            client.set("k", "v")


def test_another_servers_executable_will_do() -> None:
    with EmbeddedServer(executable=system_server()) as server, Redis.from_url(server.url) as client:
        assert client.ping()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = EmbeddedServer(options=("no-such-option yes",))
    with pytest.raises(FabricUnavailable, match="no-such-option"):
        server.start()
    assert server.pid is None
    with pytest.raises((ConfigError, FabricUnavailable)):
        EmbeddedServer(executable=tmp_path / "nothing").start()
    with pytest.raises(FabricUnavailable, match="not running"):
        _ = server.home


def test_of_two_servers_given_one_port_the_second_takes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answers there, to the same password: that must not be mistaken for the second's answer."""
    with EmbeddedServer(loopback=True, password="shared") as first:
        monkeypatch.setattr("shared.server.free_port", iter([first.port, free_port()]).__next__)
        with EmbeddedServer(loopback=True, password="shared") as second, Redis.from_url(second.url) as client:
            assert second.port != first.port
            assert client.info("server")["process_id"] == second.pid != first.pid


def test_a_killed_parent_takes_its_server_along(tmp_path: Path) -> None:
    """Nobody is left to remove the directory; `tmp_path` is too long for a socket's address, so it is not there."""
    code = "from shared.server import EmbeddedServer as E; s = E(); s.start(); print(s.pid, s.home, flush=True); input()"
    long = tmp_path / ("x" * 80)
    long.mkdir()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"TMPDIR": str(long)}) as parent:
        assert parent.stdout is not None
        pid, home = parent.stdout.readline().decode().split()
        assert psutil.pid_exists(int(pid))
        parent.kill()
    eventually_now(lambda: is_gone(int(pid)))
    assert not list(long.iterdir())
    shutil.rmtree(home)


def test_a_parent_that_forgets_its_server_leaves_nothing_either() -> None:
    code = "from shared.server import EmbeddedServer as E; s = E(); s.start(); print(s.pid, s.home)"
    pid, home = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout.decode().split()
    assert is_gone(int(pid))
    assert not Path(home).exists()


def test_the_wheel_has_a_server_for_this_machine() -> None:
    assert valkey_executable().stat().st_mode & 0o100
