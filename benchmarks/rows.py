"""Rows of results: one JSON list per benchmark under `benchmarks/results`, replaced whole by each run."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of ours beside another's, measured in the same run. `target` is the least `ratio` that is promised, if any is."""

    name: str
    unit: str
    ours: float
    other: float
    other_name: str
    target: float | None
    lower_is_better: bool = False
    interval: tuple[float, float] | None = None
    """Of the ratio, where rounds allow one."""

    @property
    def ratio(self) -> float:
        """Above 1: ours is better."""
        return self.other / self.ours if self.lower_is_better else self.ours / self.other

    @property
    def holds(self) -> bool | None:
        """None where nothing is promised."""
        return None if self.target is None else self.ratio >= self.target

    def line(self) -> str:
        verdict = "" if self.target is None else f" (target {self.target:g}: {'holds' if self.holds else 'MISSED'})"
        within = f" [{self.interval[0]:.2f}, {self.interval[1]:.2f}]" if self.interval else ""
        return f"{self.name:44} {self.ours:9.2f} {self.other:9.2f} {self.unit:6} {self.ratio:6.2f}x{within} of {self.other_name}{verdict}"


def write_rows(benchmark: str, rows: list[Row]) -> Path:
    """Prints the rows as a table and writes them to `benchmarks/results/<benchmark>.json`."""
    about = {"machine": machine(), "commit": commit(), "command": command()}
    path = RESULTS / f"{benchmark}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [
        {key: value for key, value in asdict(row).items() if key not in _unsaid(row)} | {"ratio": row.ratio, "holds": row.holds} | about
        for row in rows
    ]
    path.write_text(json.dumps(entries, indent=1) + "\n")
    for row in rows:
        print(row.line())
    return path


def _unsaid(row: Row) -> tuple[str, ...]:
    return ("lower_is_better",) if row.interval else ("lower_is_better", "interval")


def machine() -> str:
    """Processor and size, nothing that names the host."""
    memory_gib = psutil.virtual_memory().total / 2**30
    cores = f"{platform.machine()}, {psutil.cpu_count()} cores of {processor()}"
    return f"{cores}, {memory_gib:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def processor(described: Path = Path("/proc/cpuinfo")) -> str:
    """As it calls itself; a decision takes four times as long on one as on another with as many cores."""
    lines = described.read_text(encoding="utf-8").splitlines() if described.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or "unknown")


def commit() -> str:
    """The commit that was measured, with `+` if the tree had changes."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return f"{head}+" if _git("status", "--porcelain", "--untracked-files=no") else head


def command() -> str:
    arguments = [argument for argument in sys.argv[1:] if not Path(argument).is_absolute()]
    return " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *arguments])


def _git(*arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"
