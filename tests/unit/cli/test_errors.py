"""Every failure that a person can mend is one line that names the option and the remedy, and exit status 2."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cli.main import main

DEMO = str(Path(__file__).parents[3] / "examples" / "demo_model" / "weights")
NOWHERE = "redis://127.0.0.1:1"
GATEWAY = ["gateway", "--redis-url", NOWHERE, "--model", DEMO]
SCHEDULER = ["scheduler", "--redis-url", NOWHERE]
WORKER = ["worker", "--redis-url", NOWHERE, "--model", DEMO, "--engine", "fake"]
UP = ["up", "--model", DEMO]
OPEN = ["--host", "0.0.0.0"]

BAD = [
    # (arguments, the option that is named, the remedy)
    (["up"], "--model", "HEADSTART_MODEL"),
    (["up", "--model", "/nowhere"], "--model /nowhere", "give the directory of a transformers model"),
    ([*UP, "--high", "0"], "--high", "greater than or equal to 1"),
    ([*UP, "--low", "-1"], "--low", "greater than or equal to 0"),
    ([*UP, "--port", "70000"], "--port", "less than or equal to 65535"),
    ([*UP, "--dtype", "int8"], "--dtype", "float32, bfloat16, float16"),
    ([*UP, "--low-slowdown", "0.5"], "--low-slowdown", "greater than or equal to 1"),
    ([*UP, "--log-level", "loud"], "--log-level", "debug, info, warning, error"),
    ([*UP, "--api-key", " "], "--api-key", "give one, or leave the option out"),
    ([*UP, *OPEN], "--host 0.0.0.0", "give --api-key (or HEADSTART_API_KEYS), or say --no-auth"),
    (["gateway", "--model", DEMO], "--redis-url", "HEADSTART_REDIS_URL"),
    (["gateway", "--redis-url", NOWHERE], "--model", "HEADSTART_MODEL"),
    (["gateway", "--redis-url", NOWHERE, "--model", "/nowhere"], "--model /nowhere", "point it at one with tokenizer and config.json"),
    ([*GATEWAY, *OPEN], "--host 0.0.0.0", "give --api-key (or HEADSTART_API_KEYS), or say --no-auth"),
    ([*GATEWAY, "--host", "::"], "--host ::", "give --api-key"),
    ([*GATEWAY, "--host", "inference.example"], "--host inference.example", "give --api-key"),
    ([*GATEWAY, "--api-key", ""], "--api-key", "give one, or leave the option out"),
    ([*GATEWAY, "--port", "-1"], "--port", "greater than or equal to 0"),
    ([*GATEWAY, "--max-model-tokens", "-1"], "--max-model-tokens", "greater than or equal to 0"),
    ([*GATEWAY, "--default-max-tokens", "0"], "--default-max-tokens", "greater than or equal to 1"),
    ([*GATEWAY, "--shutdown-s", "-1"], "--shutdown-s", "greater than or equal to 0"),
    ([*GATEWAY, "--redis-url", "http://h"], "HEADSTART_REDIS_URL", "use redis://, rediss://, unix:// or redis+cluster://"),
    ([*SCHEDULER, "--policy", "best"], "--policy best", "choose one of cronus, data-parallel-least-work"),
    ([*SCHEDULER, "--cut", "-1"], "--cut", "greater than or equal to 0"),
    ([*SCHEDULER, "--liveness-s", "0"], "--liveness-s", "greater than or equal to 0.1"),
    ([*SCHEDULER, "--grace-s", "-1"], "--grace-s", "greater than or equal to 0"),
    ([*SCHEDULER, "--max-crashes", "0"], "--max-crashes", "greater than or equal to 1"),
    ([*SCHEDULER, "--max-waiting", "many"], "--max-waiting", "valid integer"),
    (["worker", "--redis-url", NOWHERE, "--model", "/nowhere"], "--model /nowhere", "give the directory of a transformers model"),
    ([*WORKER, "--engine", "steam"], "--engine", "torch, fake"),
    ([*WORKER, "--device", "abacus"], "--device", "choose cpu, cuda or cuda:N"),
    ([*WORKER, "--dtype", "int8"], "--dtype", "float32, bfloat16, float16"),
    ([*WORKER, "--block-tokens", "48"], "--block-tokens 48", "choose a divisor of 64"),
    ([*WORKER, "--token-budget", "8", "--max-sequences", "9"], "--token-budget 8", "raise it"),
    ([*WORKER, "--kv-mib", "0"], "--kv-mib", "greater than or equal to 1"),
    ([*WORKER, "--staging-mib", "0"], "--staging-mib", "greater than or equal to 1"),
    ([*WORKER, "--threads", "-1"], "--threads", "greater than or equal to 0"),
    ([*WORKER, "--slowdown", "0"], "--slowdown", "greater than or equal to 1"),
    ([*WORKER, "--drain-s", "-1"], "--drain-s", "greater than or equal to 0"),
    ([*WORKER, "--max-assists", "0"], "--max-assists", "greater than or equal to 1"),
    ([*WORKER, "--depth", "3"], "--depth", "less than or equal to 2"),
    (["status"], "--redis-url", "HEADSTART_REDIS_URL"),
    (["status", "--redis-url", NOWHERE], "127.0.0.1:1", "HEADSTART_REDIS_URL"),
    (["demo", "--prompts", "0"], "--prompts", "greater than or equal to 1"),
    (["demo", "--model", "/nowhere"], "--model /nowhere", "give the directory of a transformers model"),
    (["fly"], "'fly'", "headstart --help"),
    (["gateway", "--fly"], "--fly", "headstart gateway --help"),
]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HEADSTART_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("arguments", "option", "remedy"), BAD, ids=[" ".join(case[0]).replace(DEMO, "MODEL") for case in BAD])
def test_one_line_names_the_option_and_the_remedy(
    arguments: list[str], option: str, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["headstart", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("headstart: ")
    assert said.count("\n") == 1
    assert option in said
    assert remedy in said


@pytest.mark.parametrize(
    "safe", [["--host", "127.0.0.2"], ["--host", "::1"], ["--host", "localhost"], [*OPEN, "--no-auth"], [*OPEN, "--api-key", "k"]]
)
def test_loopback_a_key_or_a_word_will_do(safe: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It comes as far as the message server, which is not there."""
    monkeypatch.setattr(sys, "argv", ["headstart", *GATEWAY, *safe])
    with pytest.raises(SystemExit):
        main()
    assert "127.0.0.1:1" in capsys.readouterr().err
