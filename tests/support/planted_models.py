"""Wrong models: Llamas that look right to every check of names, each with one fault of a kind that architectures have had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.support.tiny_configs import CONTEXT, LLAMA_LIKE
from tests.support.tiny_models import save_tiny

MODEL_TYPE = "planted"


class Shifting(torch.nn.Embedding):
    """Every token takes a share of the one before it in the batch, as convolutions and token shifts do: across requests."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = super().forward(ids)
        return rows + 0.5 * torch.nn.functional.pad(rows, (0, 0, 1, 0))[:, :-1]


class Remembering(torch.nn.Embedding):
    """Every forward adds the mean of the forward before."""

    memory: torch.Tensor | None = None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = super().forward(ids)
        answer = rows if self.memory is None else rows + self.memory
        self.memory = rows.mean(dim=(0, 1))
        return answer


class Counting(torch.nn.Embedding):
    """Changes its answers after a thousand forwards: no probe meets that, only a look at what it keeps."""

    calls = torch.zeros(())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        return super().forward(ids) * (2 if self.calls > 1000 else 1)


class Crowding(torch.nn.Embedding):
    """Has room for 16 tokens of a kind in a batch, as routers with a capacity do: what a neighbour sent takes it away."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows, kind = super().forward(ids), ids % 4
        before = torch.stack([(kind == k).cumsum(-1) for k in range(4)]).gather(0, kind[None])[0]
        return rows * (before <= 16)[..., None]


class LongestRotaryEmbedding(LlamaRotaryEmbedding):  # type: ignore[misc]
    """Rotates by another angle once any token of the batch stands far out, whatever the configuration says of RoPE.

    Its name is how transformers knows that it has frequencies to set after loading.
    """

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> Any:
        return super().forward(x, position_ids * (2 if position_ids.max() > CONTEXT // 2 else 1))


def _embedding(made: type[torch.nn.Embedding]) -> Callable[[Any], None]:
    def plant(model: Any) -> None:
        model.model.embed_tokens = made(model.config.vocab_size, model.config.hidden_size)

    return plant


def _rotary(model: Any) -> None:
    model.model.rotary_emb = LongestRotaryEmbedding(model.config)


PLANTS: dict[str, Callable[[Any], None]] = {
    "shifting": _embedding(Shifting),
    "remembering": _embedding(Remembering),
    "counting": _embedding(Counting),
    "crowding": _embedding(Crowding),
    "longest neighbour": _rotary,
}


@contextmanager
def planted(name: str, folder: Path) -> Iterator[Path]:
    """A checkpoint of the wrong model `name` in `folder`, of a type that transformers knows while the context lasts."""

    class PlantedConfig(hf.LlamaConfig):  # type: ignore[misc]
        model_type = MODEL_TYPE

    class PlantedForCausalLM(hf.LlamaForCausalLM):  # type: ignore[misc]
        config_class = PlantedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            PLANTS[name](self)
            self.post_init()

    models = hf.AutoModelForCausalLM._model_mapping._extra_content
    hf.AutoConfig.register(MODEL_TYPE, PlantedConfig)
    hf.AutoModelForCausalLM.register(PlantedConfig, PlantedForCausalLM)
    try:
        yield save_tiny(MODEL_TYPE, folder, config=PlantedConfig(**LLAMA_LIKE))
    finally:
        CONFIG_MAPPING._extra_content.pop(MODEL_TYPE)
        models.pop(PlantedConfig)
