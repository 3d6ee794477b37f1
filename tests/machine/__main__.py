"""`python -m tests.machine`: breaks a running system under load, and fails if an answer is lost, doubled or different, or something leaks.

The same `--seed` strikes the same processes in the same order and asks the same things; what meets what is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.demo import PROMPTS_FILE
from tests.machine.run import Plan, Result, run
from tests.support.pool import save_word_tokenizer
from tests.support.tiny_models import VOCABULARY, save_tiny

PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
LIVED_S = 120.0
ENOUGH_S = 300.0


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="headstart-machine-") as folder:
        directory = Path(folder)
        plan = Plan(
            arguments.seed,
            arguments.seconds,
            arguments.every,
            arguments.clients,
            tuple(filter(None, PROMPTS_FILE.read_text().splitlines()))[:12] if arguments.model else (),
            needed_kills(arguments),
            not arguments.default_mode,
            tuple(arguments.targets),
        )
        model = arguments.model or word_model(directory / "model")
        result = asyncio.run(run(plan, model, directory / "data"))
    report(result, arguments)
    sys.exit(not result.holds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--every", type=float, default=6.0, help="seconds between blows")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--model", type=Path, help="a real model in float32, its texts compared; by default the engine without one")
    parser.add_argument("--targets", nargs="+", default=(), help="strike these alone: server, network, gateway-1, ...; all by default")
    parser.add_argument("--default-mode", action="store_true", help="the server's default durability instead of the durable mode")
    parser.add_argument(
        "--need-kills", type=int, help="fewer are a failure; by default 5 with a model, 30 in a run of 300 s or more, else none are needed"
    )
    return parser.parse_args()


def needed_kills(arguments: argparse.Namespace) -> int:
    """Below which a run has shown nothing."""
    if arguments.need_kills is not None:
        return int(arguments.need_kills)
    return 5 if arguments.model else 30 if arguments.seconds >= ENOUGH_S else 0


def word_model(folder: Path) -> Path:
    """For the engine without a model: a tokenizer whose ids are words, and a chat template that adds nothing."""
    folder.mkdir(parents=True)
    save_word_tokenizer(save_tiny("llama", folder), VOCABULARY)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": PLAIN_TEMPLATE}))
    return folder


def report(result: Result, arguments: argparse.Namespace) -> None:
    tally, cluster, kills = result.tally, result.cluster, result.cluster.kills
    mode = "durable mode" if result.plan.durable else "default mode"
    print(f"\nseed {arguments.seed}, {arguments.seconds:.0f} s, {mode}, {sum(tally.asked.values())} requests, {kills.total()} kills")
    print("kills      " + _counts(kills) + ("" if result.enough_kills else f": at least {result.plan.need_kills} were wanted"))
    print("blows      " + _counts(cluster.blows))
    for line in dict.fromkeys(cluster.skipped):
        print(f"SKIPPED    {line}")
    print("struck     " + _counts(cluster.struck))
    print("asked      " + _counts(tally.asked))
    print("ended      " + _counts(tally.phases))
    print(f"refused    {result.door.refusals}, connections cut {result.door.cuts}")
    print(result.probe.line(mode))
    print(
        f"lost {len(tally.lost)}, duplicated {len(tally.twice)}, different {len(tally.wrong)}, leaked {len(result.leaks)}, "
        f"died by themselves {len(cluster.deaths)}"
    )
    for line in [
        *tally.lost,
        *tally.twice,
        *tally.wrong,
        *result.leaks,
        *(f"{one.name} {one.code}: {one.words}" for one in cluster.deaths),
    ]:
        print(f"  {line}")
    for line in result.wear.lines(LIVED_S):
        print(line)
    if not result.holds:
        print(f"again: python -m tests.machine {' '.join(sys.argv[1:])}" + ("" if "--seed" in sys.argv else f" --seed {arguments.seed}"))


def _counts(found: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items()))


if __name__ == "__main__":
    main()
