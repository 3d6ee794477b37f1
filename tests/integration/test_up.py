"""`headstart up` as a process: it serves, it leaves nothing behind however it ends, and what a person can mend it says in one line."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil
import pytest

from shared.server import free_port
from tests.support.waiting import eventually_now

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("up")]

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "examples" / "demo_model" / "weights"
READY_S = 300.0
GONE_S = 90.0


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory for temporary files that nobody else uses; its path is short enough for a socket's address."""
    with tempfile.TemporaryDirectory(prefix="up-") as folder:
        yield Path(folder)


def command(*options: object) -> list[str]:
    return [sys.executable, "-m", "cli", *map(str, options)]


def environment(temporary: Path) -> dict[str, str]:
    """One thread per model, and nothing of ours decides where the server is."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HEADSTART_")}
    return {**inherited, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}


@dataclass
class Up:
    """A running `headstart up`, and all the processes it started, by their command lines."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    family: dict[psutil.Process, str] = field(default_factory=dict)

    @property
    def says_it_is_up(self) -> bool:
        return f"127.0.0.1:{self.port}/v1" in self.log.read_text()

    def ask(self, model: str = "weights") -> None:
        """One chat completion by the model."""
        body = {"model": model, "messages": [{"role": "user", "content": "Call me Ishmael."}], "max_tokens": 4}
        answer = httpx2.post(f"http://127.0.0.1:{self.port}/v1/chat/completions", json=body, timeout=READY_S)
        assert 1 <= answer.raise_for_status().json()["usage"]["completion_tokens"] <= 4

    def meet_family(self) -> None:
        self.family = {member: " ".join(member.cmdline()) for member in psutil.Process(self.process.pid).children(recursive=True)}
        for role in ("valkey-server", "cli scheduler", "cli worker", "cli gateway"):
            assert any(role in line for line in self.family.values()), role

    def nobody_is_left(self) -> None:
        _, alive = psutil.wait_procs(list(self.family), GONE_S)
        assert not alive, [self.family[member] for member in alive]
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", self.port)) != 0


@contextmanager
def up(temporary: Path, *more: object) -> Iterator[Up]:
    port, log = free_port(), temporary / "log"
    options = ("up", "--model", WEIGHTS, "--low", 1, "--high", 1, "--port", port, *more)
    with open(log, "wb") as stderr:
        process = subprocess.Popen(
            command(*options), cwd=ROOT, env=environment(temporary), stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
        )
    found = Up(process, port, log)
    try:
        eventually_now(lambda: found.says_it_is_up or process.poll() is not None, READY_S)
        assert process.poll() is None, log.read_text()
        found.meet_family()
        yield found
    finally:
        # Only a failed test leaves anybody.
        process.kill()
        process.wait()
        for member in found.family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


class TestItServes:
    """With its model once; how processes end has nothing to do with what they compute, and the fake engine starts sooner."""

    @pytest.mark.parametrize(("number", "engine"), [(signal.SIGINT, "torch"), (signal.SIGTERM, "fake")], ids=["SIGINT", "SIGTERM"])
    def test_until_it_is_asked_to_leave(self, temporary: Path, number: signal.Signals, engine: str) -> None:
        with up(temporary, "--engine", engine) as found:
            found.ask()
            found.process.send_signal(number)
            assert found.process.wait(GONE_S) == 0, found.log.read_text()
            found.nobody_is_left()
            assert not list(temporary.glob("headstart-*"))

    def test_until_it_is_killed_and_its_children_go_with_it(self, temporary: Path) -> None:
        with up(temporary, "--engine", "fake") as found:
            found.process.kill()
            found.process.wait()
            found.nobody_is_left()


class TestItServesSeveralModels:
    def test_each_by_its_own_pool(self, temporary: Path) -> None:
        with up(temporary, "--engine", "fake", "--extra-model", f"org/second={WEIGHTS}@second") as found:
            models = httpx2.get(f"http://127.0.0.1:{found.port}/v1/models").raise_for_status().json()
            assert [model["id"] for model in models["data"]] == ["weights", "org/second"]
            assert httpx2.get(f"http://127.0.0.1:{found.port}/ready").status_code == 200
            for model, pool in (("weights", "default"), ("org/second", "second")):
                found.ask(model)
                assert sum("cli worker" in line and f"--pool {pool} " in line for line in found.family.values()) == 2
            metrics = httpx2.get(f"http://127.0.0.1:{found.port}/metrics").text
            for model in ("weights", "org/second"):
                assert sum(answered(metrics, model)) == 1.0
            found.process.send_signal(signal.SIGTERM)
            assert found.process.wait(GONE_S) == 0, found.log.read_text()
            found.nobody_is_left()


def answered(metrics: str, model: str) -> list[float]:
    """How many requests each way of finishing has."""
    name = "vllm:request_success_total"
    return [float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(name) and f'model_name="{model}"' in line]


class TestItRefuses:
    """One line on stderr that names what is wrong and the remedy, exit status 2, nothing left."""

    @pytest.mark.parametrize(
        ("options", "names", "remedy"),
        [
            (("up", "--model", "/no/such/model"), "--model /no/such/model", "give the directory of a transformers model"),
            (("up", "--model", WEIGHTS, "--high", 0), "--high", "greater than or equal to 1"),
            (("up", "--model", WEIGHTS, "--slow", 1), "--slow", "see `headstart up --help`"),
            (("up", "--model", WEIGHTS, "--extra-model", f"b={WEIGHTS}@default"), "--extra-model", "a pool serves one model"),
            (("worker", "--redis-url", "redis://127.0.0.1:1", "--model", "/no/such/model"), "--model /no/such/model", "give the directory"),
            (("worker", "--redis-url", "redis://127.0.0.1:1", "--model", WEIGHTS, "--engine", "steam"), "--engine", "torch, fake"),
            (("worker", "--model", WEIGHTS), "--redis-url", "see `headstart worker --help`"),
        ],
        ids=["up-model", "up-number", "up-unknown", "up-pool-twice", "worker-model", "worker-engine", "worker-missing"],
    )
    def test_an_option(self, temporary: Path, options: tuple[object, ...], names: str, remedy: str) -> None:
        line = refusal(temporary, *options)
        assert names in line
        assert remedy in line


def refusal(temporary: Path, *options: object) -> str:
    """The one line that the command says before it ends with 2."""
    done = subprocess.run(command(*options), cwd=ROOT, env=environment(temporary), capture_output=True, text=True, timeout=READY_S)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("headstart: ")
    assert not list(temporary.glob("headstart-*"))
    return lines[0]
