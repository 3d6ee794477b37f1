"""Checkpoints as they are found: sharded, tied, of every dtype; and the broken ones, refused with the file and the remedy."""

from __future__ import annotations

import io
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from rich.console import Console

from shared.errors import ConfigError, ModelRefused
from tests.support.tiny_configs import tiny_config
from tests.support.tiny_models import save_tiny
from workers.load_progress import load_progress
from workers.model_loader import LoadedModel, load_model, quiet_transformers


def load(folder: Path, dtype: str = "float32", **options: Any) -> LoadedModel:
    return load_model(folder, device=torch.device("cpu"), dtype=dtype, **options)


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    """The tiny Llama, to be broken."""
    return Path(shutil.copytree(llama, tmp_path / "copy"))


@torch.inference_mode()
def logits(loaded: LoadedModel) -> torch.Tensor:
    loaded.model.set_attn_implementation("eager")
    answer: torch.Tensor = loaded.model(input_ids=torch.arange(9)[None], use_cache=False).logits
    return answer


def resave(folder: Path, target: Path, **options: Any) -> Path:
    with quiet_transformers():
        hf.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(target, **options)
    return target


def test_shards_hold_the_same_model(llama: Path, tmp_path: Path) -> None:
    sharded = resave(llama, tmp_path, max_shard_size="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert logits(load(sharded)).equal(logits(load(llama)))


def test_tied_embeddings_are_one_tensor(tmp_path: Path) -> None:
    """In a dtype whose linears are not packed: packed ones hold a copy of their own."""
    loaded = load(save_tiny("llama", tmp_path, config=tiny_config("llama", tie_word_embeddings=True)), "float16")
    assert loaded.model.lm_head.weight.data_ptr() == loaded.model.model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize("own", ["float32", "bfloat16", "float16"])
def test_auto_is_the_checkpoints_own_dtype(own: str, llama: Path, tmp_path: Path) -> None:
    with quiet_transformers():
        hf.AutoModelForCausalLM.from_pretrained(llama, dtype=getattr(torch, own)).save_pretrained(tmp_path)
    loaded = load(tmp_path, "auto")
    assert (loaded.dtype, loaded.kv.dtype) == (own, own)
    assert loaded.model.dtype == getattr(torch, own)


def test_every_end_of_sequence_id_counts(copy: Path) -> None:
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 5, 7]}))
    assert load(copy).eos_token_ids == {3, 5, 7}


def cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def no_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<html>not found</html>")


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def nothing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def index(content: str) -> Any:
    return lambda folder: (folder / "model.safetensors.index.json").write_text(content)


def config(content: str) -> Any:
    return lambda folder: (folder / "config.json").write_text(content)


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (cut_off, r"model\.safetensors is damaged or cut off .*: fetch the folder again"),
        (no_header, r"model\.safetensors is damaged or cut off"),
        (only_a_pickle, r"model\.safetensors is missing, and pytorch_model\.bin is a pickle, which is never read"),
        (nothing, r"model\.safetensors is missing; fetch it"),
        (index("{"), r"cannot read .*index\.json"),
        (index("{}"), r"index\.json has no weight_map"),
        (
            index('{"weight_map": {"a": "../model.safetensors"}}'),
            r"names the file '\.\./model\.safetensors', which is not in its",
        ),
        (index('{"weight_map": {"a": "model-2.safetensors"}}'), r"model-2\.safetensors is missing"),
        (config("{"), r"cannot read .*config\.json"),
        (config("[]"), r"config\.json holds no JSON object"),
    ],
)
def test_broken_files_are_named(breaking: Any, message: str, copy: Path) -> None:
    breaking(copy)
    with pytest.raises(ConfigError, match=message):
        load(copy)


def changed(folder: Path, **settings: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def test_quantised_weights_are_refused(copy: Path) -> None:
    with pytest.raises(ModelRefused, match=r"'llama' is refused: its weights are quantised \(mxfp4\)"):
        load(changed(copy, quantization_config={"quant_method": "mxfp4"}))


def test_code_beside_a_checkpoint_is_never_run(copy: Path) -> None:
    (copy / "evil.py").write_text("raise SystemExit('it ran')")
    changed(copy, model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(ModelRefused, match="'evil' is refused: transformers does not know it, and remote code is never run"):
        load(copy)


def test_code_beside_a_known_type_is_never_run_either(copy: Path) -> None:
    (copy / "evil.py").write_text("raise SystemExit('it ran')")
    changed(copy, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    assert type(load(copy).model).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize(("option", "known"), [("dtype", "auto, float32"), ("wire_dtype", "float32, bfloat16")])
def test_an_unknown_dtype_is_refused_by_name(option: str, known: str, llama: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{option} must be one of {known}.*, got 'int8'"):
        load(llama, **{option: "int8"})


def test_a_terminal_gets_bars_and_everything_else_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for terminal in (True, False):
        screen = io.StringIO()
        with load_progress(Console(file=screen, force_terminal=terminal, width=100)) as progress:
            progress.stage("reading the weights", 2_000_000)
            progress.advance(1_000_000)
            progress.stage("placing the weights")
        assert ("placing the weights" in screen.getvalue()) is terminal
    assert caplog.messages == ["loading: reading the weights (2 MB)", "loading: placing the weights"]
