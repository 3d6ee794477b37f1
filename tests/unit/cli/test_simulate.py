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


def test_the_same_seed_writes_the_same_bytes(trace: Path, tmp_path: Path) -> None:
    written: list[dict[str, bytes]] = []
    for name in ("one", "two"):
        out = tmp_path / name
        options = ["--policy", "headstart", "--policy", "pipeline-parallel", "--rate", "9", "--poisson", "--seed", "5", "--out", str(out)]
        result = CliRunner().invoke(app, ["simulate", "--cluster", str(CLUSTER), "--trace", str(trace), *options])
        assert result.exit_code == 0, result.output
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert len(written[0]) == 6
    assert written[0] == written[1]


def test_what_if_there_were_more_workers_another_link_another_budget(trace: Path, tmp_path: Path) -> None:
    def bound(*options: str) -> float:
        arguments = ["simulate", "--cluster", str(CLUSTER), "--trace", str(trace), "--requests", "4", "--policy", "high-only"]
        result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path), *options])
        assert result.exit_code == 0, result.output
        return float(json.loads((tmp_path / "figures.json").read_text())["bound"]["requests_per_s"])

    usual = bound()
    assert bound("--workers", "a10=4") > 1.2 * usual
    assert bound("--workers", "a10=0", "--link-gb-s", "1") < usual
    assert bound("--token-budget", "64") < usual


def test_an_inter_token_limit_that_is_broken_is_marked(trace: Path) -> None:
    arguments = ["simulate", "--cluster", str(CLUSTER), "--trace", str(trace), "--policy", "high-only", "--itl-p99"]
    assert "!" in CliRunner().invoke(app, [*arguments, "0.001"]).output
    assert "!" not in CliRunner().invoke(app, [*arguments, "10"]).output


@pytest.mark.parametrize("option", ["a11=4", "a10", "a10=x"])
def test_a_worker_count_of_nobody_is_refused_by_name(trace: Path, option: str) -> None:
    result = CliRunner().invoke(app, ["simulate", "--cluster", str(CLUSTER), "--trace", str(trace), "--workers", option])
    assert result.exit_code != 0
    assert "NAME=COUNT" in str(result.exception) + result.output
