"""The page for operators says what the code shows."""

from __future__ import annotations

from pathlib import Path

from cli.metrics_table import markdown

PAGE = Path(__file__).parents[3] / "docs" / "operations.md"


def test_the_table_of_metrics_is_the_codes() -> None:
    _, _, rest = PAGE.read_text().partition("<!-- metrics -->\n")
    table, found, _ = rest.partition("<!-- /metrics -->")
    assert found
    assert table == markdown()
