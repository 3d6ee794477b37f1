"""`headstart worker` that joins its CPU group first, and stays on its core.

`HEADSTART_BENCH_GROUPS` is a JSON object, a worker's name to its `cgroup.procs` and its core.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from cli.main import main

GROUPS_VARIABLE = "HEADSTART_BENCH_GROUPS"


def join_group(arguments: list[str]) -> None:
    """Every thread that this process starts from now on is limited with it.

    A quota is handed to each core in slices of half a period here, and what a core leaves of its slice is lost: a worker whose
    threads are on two cores never gets the whole of its quota, and the more of them run, the less. On one core nothing is lost.
    """
    groups: dict[str, tuple[str, int]] = json.loads(os.environ[GROUPS_VARIABLE])
    procs, core = groups[arguments[arguments.index("--name") + 1]]
    Path(procs).write_text(str(os.getpid()))
    os.sched_setaffinity(0, {core})


if __name__ == "__main__":
    # Read from the disk before the limit holds: how long a third of a core takes to import torch is nobody's question.
    import workers.torch_engine  # noqa: F401

    join_group(sys.argv)
    main()
