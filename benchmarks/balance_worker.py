"""`headstart worker` that joins its CPU group first: `HEADSTART_BENCH_GROUPS` is a JSON object, a worker's name to its `cgroup.procs`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from cli.main import main

GROUPS_VARIABLE = "HEADSTART_BENCH_GROUPS"


def join_group(arguments: list[str]) -> None:
    """Every thread that this process starts from now on is limited with it."""
    groups: dict[str, str] = json.loads(os.environ[GROUPS_VARIABLE])
    name = arguments[arguments.index("--name") + 1]
    Path(groups[name]).write_text(str(os.getpid()))


if __name__ == "__main__":
    # Read from the disk before the limit holds: how long a third of a core takes to import torch is nobody's question.
    import workers.torch_engine  # noqa: F401

    join_group(sys.argv)
    main()
