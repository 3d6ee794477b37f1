"""Logs on stderr: for people or as JSON lines. Request, worker and attempt are fields; prompt and output text never appear.

A module logs by the standard library: `log.info("taken", extra={"request": id, "attempt": 2})`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

import structlog

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("json", "text")

TALKATIVE = ("celery", "kombu", "amqp", "httpcore", "httpx", "httpx2", "urllib3", "transformers", "filelock", "python_multipart", "openai")
"""Libraries whose debug and info lines may quote what they carry: from them, warnings alone."""

_process: dict[str, object] = {}


def configure(role: str, level: str = "info", form: str = "") -> None:
    """Routes the standard library's logging through structlog; `role` is on every line. No `form`: text on a terminal, else JSON."""
    _process.clear()
    _process["role"] = role
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(form or ("text" if sys.stderr.isatty() else "json")))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def bind(**fields: object) -> None:
    """Fields of this process for every line from now on, such as its worker's name."""
    _process.update(fields)


def _formatter(form: str) -> structlog.stdlib.ProcessorFormatter:
    shared: list[structlog.typing.Processor] = [
        _add_process,
        structlog.stdlib.ExtraAdder(),
        _drop_colours,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    colours = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer(colors=colours) if form == "text" else structlog.processors.JSONRenderer()
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    )


def _add_process(_: object, __: str, event: structlog.typing.EventDict) -> Mapping[str, object]:
    return {**_process, **event}


def _drop_colours(_: object, __: str, event: structlog.typing.EventDict) -> Mapping[str, object]:
    """uvicorn says its lines twice."""
    event.pop("color_message", None)
    return event
