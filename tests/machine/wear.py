"""Memory and descriptors of every process over its life: what grows and does not stop is a leak."""

from __future__ import annotations

from dataclasses import dataclass, field

import psutil


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    rss_mib: float
    descriptors: int


@dataclass(slots=True)
class Wear:
    """Samples of each life of each process."""

    lives: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)

    def sample(self, at_s: float, pids: dict[str, int]) -> None:
        for name, pid in pids.items():
            try:
                process = psutil.Process(pid)
                taken = Sample(at_s, process.memory_info().rss / 2**20, process.num_fds())
            except psutil.Error:
                continue
            self.lives.setdefault((name, pid), []).append(taken)

    def lines(self, least_s: float) -> list[str]:
        """Of lives of at least this many seconds: the first third's median beside the last third's."""
        told = []
        for (name, _), samples in sorted(self.lives.items()):
            lived = samples[-1].at_s - samples[0].at_s
            if lived < least_s or len(samples) < 6:
                continue
            early, late = samples[: len(samples) // 3], samples[-(len(samples) // 3) :]
            memory = f"{_middle([s.rss_mib for s in early]):.0f} -> {_middle([s.rss_mib for s in late]):.0f} MiB"
            told.append(
                f"{name:12} {lived:5.0f} s  {memory}  {_middle([s.descriptors for s in early]):.0f} -> {late[-1].descriptors} descriptors"
            )
        return told


def _middle(values: list[float] | list[int]) -> float:
    return float(sorted(values)[len(values) // 2])
