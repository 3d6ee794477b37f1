"""What would be served wrong is refused at load, by name and with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from shared.errors import ConfigError, ModelRefused
from tests.support.tiny_configs import tiny_config
from tests.support.tiny_models import CONTEXT, LLAMA_LIKE, REFUSED, WINDOW, save_tiny
from workers.attention import check_arguments
from workers.attention_trace import visible_window
from workers.model_loader import LoadedModel, load_model
from workers.proofs import check_config, position_limit
from workers.step_layout import Chunk, DecodeGroup, StepLayout


def load(folder: Path, dtype: str = "float32", **options: Any) -> LoadedModel:
    return load_model(folder, device=torch.device("cpu"), dtype=dtype, **options)


@pytest.mark.parametrize("model_type", sorted(REFUSED))
def test_refused_by_name(model_type: str, tmp_path: Path) -> None:
    save_tiny(model_type, tmp_path)
    with pytest.raises(ModelRefused, match=f"model type '{model_type}' is refused: .*{REFUSED[model_type]}"):
        load(tmp_path)


@pytest.mark.parametrize("model_type", ["deepseek_v3", "gemma2", "gpt2", "gpt_oss", "llama", "mixtral", "qwen3"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_served_in_sixteen_bits(model_type: str, dtype: str, tmp_path: Path) -> None:
    loaded = load(save_tiny(model_type, tmp_path), dtype)
    assert len(loaded.layers) == tiny_config(model_type).num_hidden_layers
    assert loaded.max_model_tokens == CONTEXT
    assert loaded.eos_token_ids == {0}


def test_windows_are_the_masks_own(tmp_path: Path) -> None:
    loaded = load(save_tiny("gemma3_text", tmp_path))
    assert [layer.kv.window for layer in loaded.layers] == [WINDOW, None]


class NoWindow(StepLayout):
    """A bug to be found: sliding windows are forgotten."""

    def context_slots(self, chunk: Chunk, window: int | None) -> slice | torch.Tensor:
        return super().context_slots(chunk, None)

    def chunk_mask(self, chunk: Chunk, window: int | None) -> torch.Tensor | None:
        return super().chunk_mask(chunk, None)

    def decode_slots(self, group: DecodeGroup, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        return super().decode_slots(group, None)

    def seen_by_decodes(self, window: int | None) -> torch.Tensor:
        return super().seen_by_decodes(None)


class NoWindowInDecodes(StepLayout):
    """A bug to be found: only decodes that are attended together forget their window."""

    def decode_slots(self, group: DecodeGroup, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        return super().decode_slots(group, None)

    def seen_by_decodes(self, window: int | None) -> torch.Tensor:
        return super().seen_by_decodes(None)


class OwnFuture(StepLayout):
    """A bug to be found: a chunk's tokens see the chunk's own future."""

    def _build_mask(self, chunk: Chunk, window: int | None) -> torch.Tensor | None:
        mask = super()._build_mask(chunk, window)
        return None if mask is None else torch.zeros_like(mask)


class ForeignBlock(StepLayout):
    """A bug to be found: the first block of a context is a neighbour's."""

    def _find_slots(self, chunk: Chunk, lowest: int) -> slice | torch.Tensor:
        found = super()._find_slots(chunk, lowest)
        return found if isinstance(found, slice) else torch.cat([found[:1] ^ 16, found[1:]])


@pytest.mark.parametrize("bug", [NoWindow, NoWindowInDecodes, OwnFuture, ForeignBlock])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_probe_finds_bugs(bug: type[StepLayout], dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.model_runner.StepLayout", bug)
    with pytest.raises(ModelRefused, match=r"'mistral' is refused: packed and chunked, its log-probabilities differ .* by"):
        load(save_tiny("mistral", tmp_path), dtype)


Mask = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

MASKS: dict[str, tuple[Mask, int | None]] = {
    "full": (lambda b, h, q, k: k <= q, None),
    "sliding": (lambda b, h, q, k: (k <= q) & (k > q - 100), 100),
    "itself": (lambda b, h, q, k: k == q, 1),
    "beyond": (lambda b, h, q, k: (k <= q) & (k > q - 4000), None),
}
BAD_MASKS: dict[str, Mask] = {
    "ahead": lambda b, h, q, k: k <= q + 1,
    "bidirectional": lambda b, h, q, k: k >= 0 * q,
    "chunked": lambda b, h, q, k: (k <= q) & (k // 300 == q // 300),
    "prefix": lambda b, h, q, k: (k <= q) | (k < 8),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_measured(name: str) -> None:
    mask, window = MASKS[name]
    assert visible_window(mask, 1000) == window


@pytest.mark.parametrize("name", BAD_MASKS)
def test_a_strange_mask_is_refused(name: str) -> None:
    with pytest.raises(ModelRefused, match="neither causal nor a sliding window"):
        visible_window(BAD_MASKS[name], 1000)


@pytest.mark.parametrize(
    ("mask", "dropout", "others", "reason"),
    [
        (torch.zeros(1), 0.0, {}, "mask of its own"),
        (None, 0.1, {}, "dropout"),
        (None, 0.0, {"position_bias": torch.zeros(1)}, "position bias"),
        (None, 0.0, {"is_causal": False}, "not causal"),
        (None, 0.0, {"novelty": 1}, "'novelty' that is not known"),
    ],
)
def test_unknown_arguments_are_refused(mask: object, dropout: float, others: dict[str, object], reason: str) -> None:
    with pytest.raises(ModelRefused, match=reason):
        check_arguments(mask, dropout, others)


def test_known_arguments_pass() -> None:
    check_arguments(None, 0.0, {"position_ids": 1, "use_cache": False, "is_causal": True})


def llama_config(**more: Any) -> Any:
    return hf.LlamaConfig(**{**LLAMA_LIKE, **more})


def rope(kind: str, **more: Any) -> Any:
    return llama_config(rope_parameters={"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, **more})


def test_dynamic_rope_is_served_up_to_where_it_depends_on_the_batch() -> None:
    assert position_limit(rope("dynamic"), None) == CONTEXT
    with pytest.raises(ModelRefused, match="dynamic RoPE starts to depend on the batch; ask for at most 512"):
        position_limit(rope("dynamic"), CONTEXT + 1)


def test_long_rope_is_served_up_to_its_original_length() -> None:
    factors = [1.0] * 8
    long = rope("longrope", short_factor=factors, long_factor=factors, original_max_position_embeddings=128)
    assert position_limit(long, None) == 128
    with pytest.raises(ModelRefused, match="longrope RoPE starts to depend"):
        position_limit(long, 129)


def test_fixed_rope_is_served_to_the_models_end() -> None:
    assert position_limit(rope("linear"), None) == CONTEXT
    assert position_limit(rope("linear"), 100) == 100
    with pytest.raises(ModelRefused, match="max_position_embeddings"):
        position_limit(llama_config(), CONTEXT + 1)


def test_an_unknown_rope_is_refused() -> None:
    config = llama_config()
    config.rope_parameters = {"rope_type": "tomorrow"}
    with pytest.raises(ModelRefused, match="'tomorrow' is not known"):
        position_limit(config, None)


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(ModelRefused, match="encoder-decoder"):
        check_config(hf.T5Config())


def test_missing_files_name_themselves(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        load(tmp_path / "nowhere")
    save_tiny("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors is missing; fetch it, or convert"):
        load(tmp_path)


def test_remote_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "my_own", "auto_map": {"AutoConfig": "my.Config"}}))
    with pytest.raises(ModelRefused, match=r"'my_own' is refused: .*remote code is never run"):
        load(tmp_path)


def test_an_incomplete_checkpoint_is_refused(tmp_path: Path) -> None:
    """Transformers would go on with random weights."""
    save_tiny("llama", tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 3}))
    with pytest.raises(ModelRefused, match=r"lacks 9 weights, the first is model\.layers\.2"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"), [({"dtype": "int8"}, "dtype must be one of"), ({"wire_dtype": "int8"}, "wire_dtype must be")]
)
def test_bad_options_name_themselves(options: dict[str, str], message: str, llama: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load(llama, **options)


def test_unlike_dtypes_share_a_fingerprint_and_other_weights_do_not(llama: Path, tmp_path: Path) -> None:
    wide, narrow = load(llama), load(llama, "bfloat16")
    assert wide.kv == narrow.kv
    assert load(save_tiny("llama", tmp_path, seed=1)).kv.fingerprint != wide.kv.fingerprint
    assert load(llama, wire_dtype="bfloat16").kv.fingerprint != wide.kv.fingerprint
