"""The native kernels compute what torch computes; without them everything is served as before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from tests.support.tiny_models import prompt_of, reference, save_tiny
from workers import native
from workers.acceleration import accelerate
from workers.linear import GatedMlp, NativeRmsNorm, OneDnnLinear, PackedLinear
from workers.model_state import held_tensors
from workers.native import Kernels, kernels
from workers.step_plans import Piece, write_plan
from workers.torch_engine import TorchEngine

DTYPES = [torch.float32, torch.bfloat16]
CPU = torch.device("cpu")
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 0.01}


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    if kernels(found) is None:
        pytest.skip("no C++ compiler here: the native kernels are NOT tested")
    return found


def built(dtype: torch.dtype) -> Kernels:
    found = kernels(dtype)
    assert found is not None
    return found


def near(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert got.shape == wanted.shape
    assert float((got.float() - wanted).abs().max()) <= CLOSE[got.dtype] * float(wanted.abs().max())


@pytest.mark.parametrize("rows", [1, 5, 12, 13, 40])
@pytest.mark.parametrize(("columns", "depth"), [(1, 1), (31, 7), (32, 64), (65, 300)])
def test_linears(rows: int, columns: int, depth: int, dtype: torch.dtype) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rows)
        weight, bias = torch.randn(columns, depth).to(dtype), torch.randn(columns).to(dtype)
        x = torch.randn(2, rows, depth).to(dtype)
    near(PackedLinear(built(dtype), weight, bias)(x), F.linear(x.float(), weight.float(), bias.float()))
    gated = F.silu(x.float() @ weight.float().T) * (x.float() @ weight.float().T)
    near(PackedLinear(built(dtype), weight, up=weight)(x), gated)


def test_company_never_changes_a_row(dtype: torch.dtype) -> None:
    weight, x = torch.linspace(-1, 1, 64 * 96).sin().view(64, 96).to(dtype), torch.linspace(0, 9, 30 * 96).cos().view(30, 96).to(dtype)
    linear = PackedLinear(built(dtype), weight)
    together = linear(x)
    assert all(torch.equal(linear(x[row : row + 1])[0], together[row]) for row in range(30))


def test_a_linear_takes_only_its_dtype_and_width(dtype: torch.dtype) -> None:
    linear = PackedLinear(built(dtype), torch.zeros(4, 8, dtype=dtype))
    for x in (torch.zeros(2, 8, dtype=torch.float64), torch.zeros(2, 7, dtype=dtype)):
        with pytest.raises(TypeError, match="takes no"):
            linear(x)


def test_what_is_recognised_and_what_is_not(dtype: torch.dtype) -> None:
    config = LlamaConfig(hidden_size=64, intermediate_size=96)
    odd_mlp = LlamaMLP(config)
    odd_mlp.act_fn = nn.GELU()
    gemma_norm = GemmaRMSNorm(64)
    model = nn.ModuleDict({"mlp": LlamaMLP(config), "odd": odd_mlp, "norm": LlamaRMSNorm(64), "gemma": gemma_norm}).to(dtype)
    nn.init.uniform_(gemma_norm.weight)
    before = dict(model.items())
    done = accelerate(model, dtype, CPU)
    assert [type(module) for module in model.values()] == [GatedMlp, LlamaMLP, NativeRmsNorm, GemmaRMSNorm]
    assert isinstance(odd_mlp.gate_proj, PackedLinear), "what is not replaced whole is looked into"
    assert not held_tensors(model), "packed weights are parameters, not state that a model keeps"
    done.undo()
    assert dict(model.items()) == before
    assert isinstance(odd_mlp.gate_proj, nn.Linear)


def test_with_bfloat16_instructions_linears_are_one_dnns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.acceleration.has_bfloat16_products", lambda: True)
    mlp = LlamaMLP(LlamaConfig(hidden_size=64, intermediate_size=96)).bfloat16()
    x = torch.linspace(-1, 1, 7 * 64).sin().view(1, 7, 64).bfloat16()
    with torch.inference_mode():
        wanted = mlp(x)
        accelerate(mlp, torch.bfloat16, CPU)
        assert isinstance(mlp.gate_proj, OneDnnLinear)
        near(mlp(x), wanted.float())


@pytest.mark.parametrize("heads", [(4, 4, 64), (6, 2, 64), (8, 1, 32), (7, 1, 16), (4, 2, 128), (2, 1, 40)])
def test_decodes_attend_to_their_own_blocks(heads: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Contexts of every length around a block's end, scattered blocks, NaN wherever nobody wrote, with and without a first position."""
    query_heads, kv_heads, dim = heads
    contexts = torch.tensor([1, 15, 16, 17, 63], dtype=torch.int32)
    tables = torch.randperm(24, generator=torch.Generator().manual_seed(1))[:20].view(5, 4).int()
    keys, values = (torch.full((24 * 16, kv_heads, dim), torch.nan, dtype=dtype) for _ in range(2))
    query, out = torch.randn(5, query_heads, dim).to(dtype), torch.empty(5, query_heads, dim, dtype=dtype)
    for softcap, first in ((0.0, 0), (5.0, 9)):
        firsts, wanted = torch.minimum(torch.full_like(contexts, first), contexts - 1), []
        for s, context in enumerate(contexts.tolist()):
            at = torch.arange(int(firsts[s]), context)
            slots = tables[s].long()[at // 16] * 16 + at % 16
            keys[slots], values[slots] = torch.randn(2, len(at), kv_heads, dim).to(dtype)
            repeated = [kv[slots].float().repeat_interleave(query_heads // kv_heads, 1) for kv in (keys, values)]
            scores = torch.einsum("hd,thd->ht", query[s].float(), repeated[0]) * 0.1
            scores = torch.tanh(scores / softcap) * softcap if softcap else scores
            wanted.append(torch.einsum("ht,thd->hd", scores.softmax(-1), repeated[1]))
        arrays = [tensor.data_ptr() for tensor in (query, keys, values, out, tables, contexts, firsts)]
        built(dtype).attend(*arrays, 5, 4, 16, query_heads, kv_heads, dim, 0.1, softcap, 2)
        near(out, torch.stack(wanted))


def test_without_kernels_the_same_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, prompt = save_tiny("llama", tmp_path), list(prompt_of(30))
    monkeypatch.setattr(native, "_library", lambda: None)
    engine = TorchEngine(folder, kv_bytes=1 << 20)
    tokens: list[int] = []
    for step in range(6):
        piece = Piece(tokens[-1:], 29 + step, range(4), [0]) if step else Piece(prompt, 0, range(4), [29])
        engine.launch(write_plan(step, [piece], 16))
        tokens += engine.collect().token_ids
    engine.close()
    assert tokens == reference(folder).greedy(prompt, 6)


def test_a_compiler_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] || { echo no such header >&2; exit 1; }\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert native._library.__wrapped__() is None
    assert "no such header" in caplog.text
    monkeypatch.setenv("HEADSTART_NATIVE", "0")
    assert native._library.__wrapped__() is None


def test_bfloat16_is_as_near_to_float32_as_rounding_lets_it_be(tmp_path: Path) -> None:
    """Teacher-forced: log-probabilities of the float32 reference's own greedy answer, decoded in bfloat16."""
    folder, prompt = save_tiny("llama", tmp_path), list(prompt_of(40))
    oracle = reference(folder)
    wanted = oracle.greedy(prompt, 8)
    engine = TorchEngine(folder, dtype="bfloat16", kv_bytes=1 << 20)
    agreed = 0
    for step in range(8):
        piece = Piece(wanted[step - 1 : step], 39 + step, range(4), [0]) if step else Piece(prompt, 0, range(4), [39])
        engine.launch(write_plan(step, [piece], 16))
        result = engine.collect()
        agreed += result.token_ids[0] == wanted[step]
        known = oracle.logprobs([*prompt, *wanted[:step], result.token_ids[0]], 40 + step)[0]
        assert abs(result.logprobs[0] - known) < 0.3
    engine.close()
    assert agreed >= 6
