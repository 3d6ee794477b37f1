"""`python -m gateway`: the gateway alone, for those who do not use the `headstart` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.api_keys import rules_in
from gateway.settings import ExtraModel, GatewaySettings, api_keys_of
from shared import logs, tracing
from shared.durability import FORMS, Durability
from shared.errors import HeadstartError
from shared.processes import die_with_parent


def parse(arguments: Sequence[str]) -> tuple[GatewaySettings, tuple[str, str]]:
    """Settings; level and format of the log. Raises `ConfigError`; exits with usage where argparse itself objects."""
    parser = argparse.ArgumentParser(prog="gateway", description="OpenAI-compatible HTTP door to a Headstart pool.")
    redis_url = os.environ.get("HEADSTART_REDIS_URL")
    parser.add_argument("--redis-url", default=redis_url, required=redis_url is None, help="message server (HEADSTART_REDIS_URL)")
    parser.add_argument("--model", type=Path, required=True, help="directory with the model's tokenizer and config.json")
    parser.add_argument("--served-model-name", help="the model's name in the API; by default its directory's")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--pool", default=os.environ.get("HEADSTART_POOL", "default"))
    parser.add_argument("--api-key", action="append", default=[], help="one that callers may send; repeatable (HEADSTART_API_KEYS: a,b)")
    parser.add_argument("--api-keys-file", type=Path, help="a file of their digests, as `headstart new-key` writes them")
    parser.add_argument("--requests-per-minute", type=int, default=0, help="of each key without a rate of its own; 0: no limit")
    parser.add_argument("--tokens-per-minute", type=int, default=0, help="the same; prompt and output together")
    parser.add_argument("--extra-model", action="append", default=[], help="one more model: NAME=DIRECTORY@POOL; repeatable")
    parser.add_argument("--no-auth", action="store_true", help="no keys, although other machines can connect")
    parser.add_argument("--max-model-tokens", type=int, default=0, help="0: as config.json says")
    parser.add_argument("--default-max-tokens", type=int, default=4096)
    parser.add_argument("--tool-call-format", default="", help="hermes, llama3 or generic; by default what the chat template says")
    parser.add_argument("--ping-s", type=float, default=15.0)
    parser.add_argument("--verify-s", type=float, default=30.0)
    parser.add_argument("--shutdown-s", type=float, default=30.0)
    parser.add_argument("--durability", default=os.environ.get("HEADSTART_DURABILITY", "default"), help=f"{FORMS} (HEADSTART_DURABILITY)")
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-format", default=os.environ.get("HEADSTART_LOG_FORMAT", ""), choices=("", *logs.FORMATS))
    options = vars(parser.parse_args(arguments))
    told = (options.pop("log_level"), options.pop("log_format"))
    options["served_model_name"] = options["served_model_name"] or options["model"].name
    in_environment = os.environ.get("HEADSTART_API_KEYS")
    given = options.pop("api_key") or ([in_environment] if in_environment else [])
    rules = rules_in(options.pop("api_keys_file"))
    options["durability"] = Durability.parse(options["durability"])
    extra = tuple(map(ExtraModel.parse, options.pop("extra_model")))
    return GatewaySettings(api_keys=api_keys_of(given), key_rules=rules, extra_models=extra, **options), told


def main(arguments: Sequence[str]) -> int:
    die_with_parent()
    try:
        settings, told = parse(arguments)
        logs.configure("gateway", *told)
        tracing.configure("gateway")
        from gateway.process import run  # after parsing: a bad option is told at once

        run(settings)
    except HeadstartError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
