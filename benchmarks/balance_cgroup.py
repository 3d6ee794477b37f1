"""CPU quotas by cgroup, version 1 or 2: what makes one worker slower than another on one machine."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 10_000
"""A throttled process stands still for up to a period: at the kernel's usual 100 ms that would be the latency that is measured."""
LEAVE_S = 10.0
PREFIX = "headstart-bench-"


@dataclass(frozen=True, slots=True)
class Controller:
    """Where groups are made, and in which version's words."""

    root: Path
    version: int

    def limit(self, group: Path, share: float) -> None:
        """`share` of one core. Raises `OSError` where that may not be written."""
        quota = round(PERIOD_US * share)
        if self.version == 2:
            (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
            return
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(quota))


def find_controller(root: Path = CGROUPS) -> Controller | str:
    """A place where this process may limit another's CPU, or why there is none."""
    reasons: list[str] = []
    for candidate in candidates(root):
        try:
            _try(candidate)
        except OSError as error:
            reasons.append(f"cgroup v{candidate.version} at {candidate.root}: {error.strerror or error}")
            continue
        return candidate
    return "; ".join(reasons) or f"no cgroup controller for CPU time is mounted below {root}"


def candidates(root: Path) -> list[Controller]:
    """What looks like a CPU controller below the mount point, version 1 first: where both are mounted, it holds the CPU."""
    first = [Controller(root / name, 1) for name in ("cpu", "cpu,cpuacct") if (root / name / "cgroup.procs").exists()]
    controllers = root / "cgroup.controllers"
    second = controllers.exists() and "cpu" in controllers.read_text().split()
    return first[:1] + ([Controller(root, 2)] if second else [])


def _try(controller: Controller) -> None:
    """Makes a group with a limit, and takes it away. Raises `OSError` where that is not allowed."""
    if controller.version == 2:
        children = controller.root / "cgroup.subtree_control"
        if "cpu" not in children.read_text().split():
            children.write_text("+cpu")
    with CpuGroup(controller, group_name("probe"), 0.5):
        pass


def group_name(purpose: str) -> str:
    """Of a group of this process."""
    return f"{PREFIX}{os.getpid()}-{purpose}"


def remove_forgotten(controller: Controller) -> list[str]:
    """Groups whose maker was killed before it could remove them; empty ones only. Their names."""
    removed: list[str] = []
    for path in sorted(controller.root.glob(f"{PREFIX}*-*")):
        maker = path.name.removeprefix(PREFIX).partition("-")[0]
        if maker.isdigit() and not psutil.pid_exists(int(maker)):
            with suppress(OSError):
                path.rmdir()
                removed.append(path.name)
    return removed


class CpuGroup:
    """A group of processes that get `share` of one core together; made on entering, gone on leaving."""

    def __init__(self, controller: Controller, name: str, share: float) -> None:
        self.path = controller.root / name
        self._controller = controller
        self._share = share

    @property
    def procs(self) -> Path:
        """A process writes its id here to join."""
        return self.path / "cgroup.procs"

    def throttled_s(self) -> float:
        """Seconds in which the group stood still because its quota was used up, summed over the cores."""
        stat = dict(line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
        return int(stat["throttled_usec"]) / 1e6 if self._controller.version == 2 else int(stat["throttled_time"]) / 1e9

    def __enter__(self) -> Self:
        self.path.mkdir()
        try:
            self._controller.limit(self.path, self._share)
        except OSError:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """A process that has just ended is still listed for a moment."""
        deadline = time.monotonic() + LEAVE_S
        while True:
            try:
                self._remove()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _remove(self) -> None:
        self.path.rmdir()
