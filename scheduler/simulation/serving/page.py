"""Figures as pictures: PNG files, and one HTML page that holds them all."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
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


def write_page(out: Path, text: str, bound: float, rows: Sequence[Figures]) -> None:
    """`throughput.png`, `latency.png`, `utilisation.png` and `index.html` in `out`. The same figures give the same bytes."""
    plots: dict[str, Callable[[], Figure]] = {
        "throughput": lambda: _throughput(rows, bound),
        "latency": lambda: _latency(rows),
        "utilisation": lambda: _utilisation(rows),
    }
    images = {name: _png(draw()) for name, draw in plots.items()}
    for name, image in images.items():
        (out / f"{name}.png").write_bytes(image)
    (out / "index.html").write_text(_html(text, images), encoding="utf-8")


def _html(text: str, images: dict[str, bytes]) -> str:
    pictures = "\n".join(_image(name, image) for name, image in images.items())
    head = f'<!doctype html>\n<meta charset="utf-8">\n<title>Headstart: simulated</title>\n<style>{STYLE}</style>'
    return f"{head}\n<pre>{escape(text)}</pre>\n{pictures}\n"


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
            axis.barh(places, [getattr(row, pick)[worker] for row in rows], height=height, label=worker)
        axis.set_yticks(range(len(rows)), [row.policy for row in rows])
        axis.set_xlim(0, 1)
        axis.set_xlabel(title)
        axis.legend(loc="lower right", fontsize="small")
    return figure
