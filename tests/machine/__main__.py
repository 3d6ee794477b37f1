"""`python -m tests.machine`: breaks a running system under load, and fails if an answer is lost, doubled or different, or something leaks.

The same `--seed` strikes the same processes in the same order and asks the same things; what meets what is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from cli.demo import PROMPTS_FILE
from tests.machine.plan import Blow
from tests.machine.run import Plan, Result, run
from tests.support.pool import save_word_tokenizer
from tests.support.tiny_models import VOCABULARY, save_tiny

PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
LIVED_S = 120.0


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
    return parser.parse_args()


def word_model(folder: Path) -> Path:
    """For the engine without a model: a tokenizer whose ids are words, and a chat template that adds nothing."""
    folder.mkdir(parents=True)
    save_word_tokenizer(save_tiny("llama", folder), VOCABULARY)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": PLAIN_TEMPLATE}))
    return folder


def report(result: Result, arguments: argparse.Namespace) -> None:
    tally, cluster = result.tally, result.cluster
    print(f"\nseed {arguments.seed}, {arguments.seconds:.0f} s, {sum(tally.asked.values())} requests, {cluster.blows[Blow.KILL]} kills")
    print("blows      " + ", ".join(f"{blow} {count}" for blow, count in cluster.blows.items()))
    print("struck     " + ", ".join(f"{name} {count}" for name, count in sorted(cluster.struck.items())))
    print("asked      " + ", ".join(f"{kind} {count}" for kind, count in sorted(tally.asked.items())))
    print("ended      " + ", ".join(f"{phase} {count}" for phase, count in sorted(tally.phases.items())))
    print(f"refused    {result.door.refusals}, connections cut {result.door.cuts}")
    print(f"lost {len(tally.lost)}, wrong {len(tally.wrong)}, leaked {len(result.leaks)}, died by themselves {len(cluster.deaths)}")
    for line in [*tally.lost, *tally.wrong, *result.leaks, *(f"{one.name} {one.code}: {one.words}" for one in cluster.deaths)]:
        print(f"  {line}")
    for line in result.wear.lines(LIVED_S):
        print(line)


if __name__ == "__main__":
    main()
