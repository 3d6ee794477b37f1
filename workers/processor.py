"""The processor that a worker runs on: its name, and the share of it that a control group allows."""

from __future__ import annotations

import platform
from pathlib import Path

UNLIMITED = ("max", "-1")


def processor_name() -> str:
    """As the system calls it, `x86_64` for instance where it does not say more."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def processor_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Processors' worth of time that this process's control groups allow, the least along its path; None: no limit is known."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    quotas = [quota for line in lines for quota in _quotas(root, line)]
    return min(quotas, default=None)


def _quotas(root: Path, line: str) -> list[float]:
    """Of one line of `/proc/self/cgroup`: `number:controllers:path`; the unified hierarchy has no controllers there."""
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return []
    top = root / "cpu" if controllers else root
    group = top / path.lstrip("/")
    return [quota for folder in (group, *group.parents) if folder.is_relative_to(top) and (quota := _quota(folder)) is not None]


def _quota(folder: Path) -> float | None:
    """cgroup v2 has `cpu.max`, v1 two files."""
    try:
        if (unified := folder / "cpu.max").is_file():
            allowed, period = unified.read_text().split()
        else:
            allowed, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    return None if allowed in UNLIMITED else int(allowed) / int(period)
