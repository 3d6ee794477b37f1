"""Figures as pictures: PNG files, and one HTML page that holds them all."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scheduler.simulation.serving.figures import QUANTILES, Figures

SHADES = ("#9ecae1", "#4292c6", "#08519c")
WIDTH, HEIGHT = 8.0, 0.42
STYLE = (
    "body{font:16px/1.4 sans-serif;margin:2rem auto;max-width:70rem}pre{overflow-x:auto;font-size:13px}img{display:block;max-width:100%}"
)


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: what was run, as a table, and its plots."""

    name: str
    """In front of the plots' file names; may be empty."""
    text: str
    bound: float
    """Requests a second."""
    rows: Sequence[Figures]


def write_page(out: Path, sections: Sequence[Section]) -> None:
    """Three plots (PNG) of each section and one `index.html` that holds them all. The same figures give the same bytes."""
    out.mkdir(parents=True, exist_ok=True)
    parts: list[str] = []
    for section in sections:
        images = {f"{section.name}{'-' if section.name else ''}{name}": _png(figure) for name, figure in _plots(section).items()}
        for name, image in images.items():
            (out / f"{name}.png").write_bytes(image)
        parts.append("\n".join([f"<pre>{escape(section.text)}</pre>", *(_image(name, image) for name, image in images.items())]))
    head = f'<!doctype html>\n<meta charset="utf-8">\n<title>Headstart: simulated</title>\n<style>{STYLE}</style>'
    (out / "index.html").write_text("\n".join([head, *parts, ""]), encoding="utf-8")


def _plots(section: Section) -> dict[str, Figure]:
    if not section.rows:
        return {}
    return {
        "throughput": _throughput(section.rows, section.bound),
        "latency": _latency(section.rows),
        "utilisation": _utilisation(section.rows),
    }


def _image(name: str, image: bytes) -> str:
    return f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(image).decode()}">'


def _png(figure: Figure) -> bytes:
    data = BytesIO()
    figure.savefig(data, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return data.getvalue()


def _bars(rows: Sequence[Figures], panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, 0.8 + HEIGHT * len(rows)))
    axes = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
    axes[0].invert_yaxis()
    return figure, axes


def _throughput(rows: Sequence[Figures], bound: float) -> Figure:
    figure, (axis,) = _bars(rows, 1)
    names = [row.policy for row in rows]
    axis.barh(names, [row.requests_per_s for row in rows], color=SHADES[0], label="throughput")
    axis.barh(names, [row.goodput for row in rows], height=0.45, color=SHADES[2], label="goodput")
    axis.axvline(bound, color="black", linestyle="--", linewidth=1, label="fluid bound")
    axis.set_xlabel("requests per second")
    axis.legend(loc="lower right")
    return figure


def _latency(rows: Sequence[Figures]) -> Figure:
    figure, axes = _bars(rows, 2)
    for axis, title, pick, scale in ((axes[0], "TTFT, seconds", "ttft", 1.0), (axes[1], "inter-token latency, ms", "itl", 1e3)):
        for at in reversed(range(len(QUANTILES))):
            values = [getattr(row, pick)[at] * scale for row in rows]
            axis.barh([row.policy for row in rows], values, color=SHADES[at], label=f"p{QUANTILES[at]}")
        axis.set_xlabel(title)
        axis.legend(loc="lower right")
    return figure


def _utilisation(rows: Sequence[Figures]) -> Figure:
    figure, axes = _bars(rows, 2)
    for axis, title, pick in ((axes[0], "share of time computing", "utilisation"), (axes[1], "share of KV blocks in use", "kv_use")):
        workers = list(getattr(rows[0], pick))
        height = 0.8 / len(workers)
        for at, worker in enumerate(workers):
            places = [index + (at - (len(workers) - 1) / 2) * height for index in range(len(rows))]
            axis.barh(places, [getattr(row, pick).get(worker, 0.0) for row in rows], height=height, label=worker)
        axis.set_yticks(range(len(rows)), [row.policy for row in rows])
        axis.set_xlim(0, 1)
        axis.set_xlabel(title)
        axis.legend(loc="lower right", fontsize="small")
    return figure
