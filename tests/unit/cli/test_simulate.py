"""`headstart simulate` from its options to its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

CLUSTER = Path("examples/clusters/a100-a10-llama.toml")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:15:{46 + at // 4}.{at % 4 * 25:02d}00000,{100 + 90 * at},{5 + at}" for at in range(10)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    return path


def test_it_writes_the_table_the_plots_and_one_page(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [
        "simulate",
        "--cluster",
        str(CLUSTER),
        "--trace",
        str(trace),
        "--policy",
        "high-only",
        "--policy",
        "cronus",
        "--out",
        str(out),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "high-only" in result.output
    written = json.loads((out / "figures.json").read_text())
    assert [row["policy"] for row in written["policies"]] == ["high-only", "cronus"]
    assert all(0 < row["requests_per_s"] <= written["bound"]["requests_per_s"] for row in written["policies"])
    assert (out / "index.html").read_text().count("data:image/png;base64,") == 3
    assert all((out / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("throughput", "latency", "utilisation"))


@pytest.mark.parametrize(
    ("options", "says"), [(["--policy", "magic"], "no scheduler policy goes by that name"), (["--poisson"], "needs --rate above 0")]
)
def test_what_cannot_be_simulated_is_refused_by_name(trace: Path, options: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["simulate", "--cluster", str(CLUSTER), "--trace", str(trace), *options])
    assert result.exit_code != 0
    assert says in str(result.exception) + result.output
