"""What the demo shows: answers as they come, then where each prompt was cut. Fits a terminal of 80 columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

COLOURS = {"waiting": "dim", "streaming": "cyan", "done": "green"}
LOW, HIGH = "green", "cyan"
OPENING_CHARS = 60
BAR_CHARS = 12
LEGEND = (
    f"[{LOW}]█[/] prefilled by a slow worker before the fast one took over, [{HIGH}]░[/] by the fast one.\n"
    "wait: in the queue; KV, pull: what came over UCX, how long; TTFT: first token."
)


@dataclass(slots=True)
class Answer:
    """One prompt's progress on the screen."""

    number: int
    prompt: str
    text: str = ""
    state: str = "waiting"
    request_id: str = ""
    ttft_s: float = 0.0
    story: dict[str, Any] = field(default_factory=dict)
    """What `/explain` says of it, once it has ended."""

    @property
    def short_state(self) -> str:
        """Without the reason of a failure, which its panel's title tells."""
        return self.state.partition(":")[0]

    @property
    def cut(self) -> int:
        return int(self.story["tokens"]["cut"]) if self.story else 0


def live(answers: list[Answer]) -> Table:
    """One line for each answer, its end in sight: all of them fit a small terminal."""
    table = Table.grid(padding=(0, 2), expand=True)
    for width in (2, 9):
        table.add_column(width=width, no_wrap=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for answer in answers:
        colour = COLOURS.get(answer.short_state, "red")
        table.add_row(Text(str(answer.number), "dim"), Text(answer.short_state, colour), Text(_flat(answer.text)[-OPENING_CHARS:], "bold"))
    return table


def panels(answers: list[Answer]) -> Group:
    return Group(*map(_panel, answers))


def _panel(answer: Answer) -> Panel:
    body = Text(f"{_flat(answer.prompt)[:OPENING_CHARS]}… ", style="dim") + Text(_flat(answer.text), style="bold")
    return Panel(body, title=f"{answer.number} {answer.state}", title_align="left", border_style=COLOURS.get(answer.short_state, "red"))


def cuts(answers: list[Answer]) -> Group:
    """The table of the cuts, and its legend."""
    table = Table(
        title="Where each prompt was cut", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    right, left = ("#", "prompt\ntokens"), ("", "head start\nby, tokens", "then\nby, tokens")
    for name in (*right, *left, "wait\nms", "KV\nkB", "pull\nms", "TTFT\nms"):
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    for answer in answers:
        table.add_row(str(answer.number), *_row(answer))
    return Group(table, Text.from_markup(LEGEND))


def _row(answer: Answer) -> tuple[str | Text, ...]:
    if not answer.story:
        return ("", answer.short_state)
    tokens, moved, times = (answer.story[key] for key in ("tokens", "transfers", "times"))
    owners = answer.story["workers"]["owned"]
    shares: dict[str, int] = tokens["prefill_computed_by"]
    return (
        str(tokens["prompt"]),
        _bar(answer.cut, tokens["prompt"]),
        _by({name: count for name, count in shares.items() if name not in owners}),
        _by({name: count for name, count in shares.items() if name in owners}),
        str(times["queued_ms"]),
        f"{moved['bytes'] / 1e3:.0f}" if moved["bytes"] else "-",
        f"{1e3 * moved['seconds']:.0f}" if moved["bytes"] else "-",
        f"{1e3 * answer.ttft_s:.0f}",
    )


def _bar(cut: int, prompt: int) -> Text:
    """At least one cell for what is not nothing."""
    low = min(BAR_CHARS - 1, max(cut > 0, round(BAR_CHARS * cut / prompt)))
    return Text("█" * low, LOW) + Text("░" * (BAR_CHARS - low), HIGH)


def _by(shares: dict[str, int]) -> str:
    return ", ".join(f"{name.split('#')[0]} {count}" for name, count in shares.items()) or "-"


def _flat(text: str) -> str:
    return " ".join(text.split())
