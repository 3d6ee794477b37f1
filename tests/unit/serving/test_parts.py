"""Rooflines, profiles, traces, cluster files and the bound: each against figures that are known from elsewhere."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from scheduler.simulation.serving.fluid import fluid_bound
from scheduler.simulation.serving.hardware import find_gpu, find_model, gpus
from scheduler.simulation.serving.links import Links
from scheduler.simulation.serving.plan import ClusterPlan, WorkerPlan, read_cluster
from scheduler.simulation.serving.profiles import fitted_profile, shapes
from scheduler.simulation.serving.roofline import Device
from scheduler.simulation.serving.trace import Arrival, as_poisson, at_rate, clipped, read_trace
from shared.errors import ConfigError
from shared.profile import StepShape
from tests.unit.serving.support import pair

LLAMA = find_model("llama-3-8b")


def test_models_have_their_published_sizes() -> None:
    assert LLAMA.weight_bytes / 2 == pytest.approx(8.03e9, rel=0.01)
    assert find_model("qwen2-7b").weight_bytes / 2 == pytest.approx(7.62e9, rel=0.01)
    assert LLAMA.kv_bytes_per_token == 131_072
    assert find_model("qwen2-7b").kv_bytes_per_token == 57_344


@pytest.mark.parametrize(("tokens", "measured_ms"), [(512, 34.6), (1024, 75.1), (2048, 145.6), (4096, 273.6)])
def test_the_roofline_is_near_measured_kernels_of_an_a100(tokens: int, measured_ms: float) -> None:
    """Kernel medians of Llama 3 8B, linear layers and norms without attention."""
    device = Device(find_gpu("A100-80G-SXM"), LLAMA)
    linear_ms = 1e3 * (device.step_seconds(StepShape(tokens, 0, 0, 0)) - device.step_seconds(StepShape(1, 0, 0, 0))) + 9.7
    assert linear_ms == pytest.approx(measured_ms, rel=0.25)


def test_more_work_never_takes_less_time() -> None:
    device = Device(find_gpu("A10"), LLAMA)
    base = StepShape(100, 5000, 10, 10_000)
    for more in (StepShape(200, 5000, 10, 10_000), StepShape(100, 9000, 10, 10_000), StepShape(100, 5000, 10, 20_000)):
        assert device.step_seconds(more) >= device.step_seconds(base)


def test_a_fitted_profile_is_near_the_hidden_device() -> None:
    plan = pair()
    for worker in plan.workers:
        device = worker.device(plan.model)
        profile = fitted_profile(device, plan, Random(1))
        misses = [abs(profile.step_seconds(shape) / device.step_seconds(shape) - 1) for shape in shapes(plan.token_budget)]
        assert sorted(misses)[len(misses) // 2] < 0.15
        assert profile != fitted_profile(device, plan, Random(2)), "the noise is of the seed"


def test_transfers_queue_at_both_ends() -> None:
    links, arrived = Links(0.5, 10.0), list[float]()
    links.send(0.0, "a", "c", 10, arrived.append)
    links.send(0.0, "b", "c", 10, arrived.append)
    links.send(0.0, "b", "d", 10, arrived.append)
    assert arrived == [1.5, 2.5, 3.5]
    assert links.bytes_moved == 30


def test_the_bound_of_one_device_is_the_sum_of_its_times() -> None:
    """Without attention to speak of: a request's tokens over the tokens that fit into a second of full steps."""
    plan = ClusterPlan("one", LLAMA, (WorkerPlan("gpu", find_gpu("A100-80G-SXM")),), token_budget=512)
    device = plan.workers[0].device(LLAMA)
    reached = fluid_bound(plan, [Arrival(0.0, 512, 1)]).requests_per_s
    assert reached <= 1 / device.step_seconds(StepShape(512, 512 * 513 // 2, 0, 0)) * 1.01
    assert reached >= 0.9 / device.step_seconds(StepShape(513, 512 * 513 // 2, 0, 512))


def test_a_second_device_raises_the_bound_by_at_most_its_own() -> None:
    arrivals = [Arrival(0.0, 1000, 200)]
    alone = [
        fluid_bound(ClusterPlan("one", LLAMA, (WorkerPlan("gpu", find_gpu(name)),)), arrivals).requests_per_s
        for name in ("A100-80G-SXM", "A10")
    ]
    both = fluid_bound(pair(), arrivals).requests_per_s
    assert alone[0] < both
    assert both > sum(alone), "each does what it is better at"


def test_an_azure_trace_is_read_and_stretched(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.6805900,396,109\n")
    arrivals = read_trace(path)
    assert [(one.prompt_tokens, one.output_tokens) for one in arrivals] == [(374, 44), (396, 109)]
    assert [one.at_s for one in arrivals] == pytest.approx([0.0, 4.0])
    assert [one.at_s for one in at_rate(arrivals, 4.0)] == pytest.approx([0.0, 0.5])
    assert [one.at_s for one in at_rate(arrivals, 0)] == [0.0, 0.0]
    assert as_poisson(arrivals, 1.0, 3) == as_poisson(arrivals, 1.0, 3)
    assert clipped(arrivals, 200)[0].prompt_tokens == 155


def test_a_mooncake_trace_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 1000, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}\n')
    assert read_trace(path) == [Arrival(0.0, 6758, 500)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no request"),
        ("a,b\n1,2\n", "not a trace"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n", "not a trace"),
    ],
)
def test_what_is_no_trace_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_trace(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model = 1\n[[worker]]\ngpu='A10'", "model must be given"),
        ("model = 'llama-3-8b'", r"needs at least one \[\[worker\]\]"),
        ("model = 'llama-3-8b'\n[[worker]]\ngpu = 'B9000'", "gpu 'B9000' is unknown"),
        ("model = 'gpt-9'\n[[worker]]\ngpu = 'A10'", "model 'gpt-9' is unknown"),
        ("model = 'llama-3-8b'\n[[worker]]\ngpu = 'A10'\ncolour = 1", "unknown key 'colour'"),
        ("model = 'llama-3-8b'\nlink_gb_s = -1\n[[worker]]\ngpu = 'A10'", "must be a number, at least 0"),
        ("model = 'llama-3-8b'\n[[worker]]\ngpu = 'T4'", "does not fit into a T4"),
        ("model = ", "not TOML"),
    ],
)
def test_what_is_no_cluster_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_cluster(path)


@pytest.mark.parametrize("path", sorted(Path("examples/clusters").glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_can_be_read(path: Path) -> None:
    plan = read_cluster(path)
    assert plan.workers[0].gpu in gpus().values()
    assert plan.link_bytes_per_s == 12.5e9
