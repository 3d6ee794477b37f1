"""The table of metrics in `docs/operations.md`: `python -m cli.metrics_table` prints it from the code; a test compares them."""

from __future__ import annotations

from gateway.metrics import Metrics
from scheduler.metrics import SchedulerMetrics
from shared.clock import SystemClock
from shared.metrics import MetricRow
from shared.types import WorkerId, WorkerRef
from workers.core import WorkerCore, WorkerSettings
from workers.metrics import WorkerMetrics


def markdown() -> str:
    """One table for each role."""
    tables = {"Workers": _worker_rows(), "Schedulers": SchedulerMetrics(SystemClock()).rows, "Gateways": _gateway_rows()}
    return "\n".join(_table(title, rows) for title, rows in tables.items())


def _table(title: str, rows: list[MetricRow]) -> str:
    lines = [f"**{title}**", "", "| metric | kind | labels | what it counts |", "|---|---|---|---|"]
    lines += [f"| `{row.name}` | {row.kind} | {', '.join(f'`{label}`' for label in row.labels) or '-'} | {row.text} |" for row in rows]
    return "\n".join([*lines, ""])


def _worker_rows() -> list[MetricRow]:
    settings = WorkerSettings(
        WorkerRef(WorkerId("none"), "0"), b"", block_tokens=16, total_blocks=1, token_budget=1, max_sequences=1, max_model_tokens=1
    )
    return WorkerMetrics(WorkerCore(settings), SystemClock()).rows


def _gateway_rows() -> list[MetricRow]:
    """Every one is labelled with the model's name, ended and refused requests with a reason too."""
    families = sorted(Metrics("none").registry.collect(), key=lambda family: family.name)
    return [MetricRow(_shown(family.name, family.type), family.type, ("model_name",), family.documentation) for family in families]


def _shown(name: str, kind: str) -> str:
    return f"{name}_total" if kind == "counter" else name


if __name__ == "__main__":
    print(markdown(), end="")
