"""Which modules of a loaded model are replaced by quicker ones that compute the same.

A module is recognised by its parts and then asked: on random input the replacement must answer what it answers, else it
stays. The whole model is proven again afterwards (`workers.proofs.prove_packing`); if that fails, all is undone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from workers.linear import GatedMlp, NativeRmsNorm, PackedLinear
from workers.native import Kernels, kernels

log = logging.getLogger(__name__)

PROBE_ROWS = 5
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}
"""Largest difference of an output, relative to the largest output; a 16-bit module rounds more often than its replacement."""


@dataclass(slots=True)
class Acceleration:
    """What was replaced in a model: (parent, name, the module that was there), in order."""

    replaced: list[tuple[nn.Module, str, nn.Module]] = field(default_factory=list)

    def undo(self) -> None:
        for parent, name, module in reversed(self.replaced):
            setattr(parent, name, module)
        self.replaced.clear()


def accelerate(model: nn.Module, dtype: torch.dtype, device: torch.device) -> Acceleration:
    """Replaces what can be replaced in `model`, whose weights are `dtype` on `device`; nothing where there are no kernels."""
    done = Acceleration()
    native = kernels(dtype) if device.type == "cpu" else None
    if native is None:
        return done
    for parent, name, module in list(_children(model)):
        if getattr(parent, name) is module and (made := _replacement(native, module)) is not None:
            setattr(parent, name, made)
            done.replaced.append((parent, name, module))
    log.info("%d modules run on native kernels", len(done.replaced))
    return done


def _children(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Every module with its parent and name there, outer ones first, without what lies inside a replaced one's kind."""
    for parent in model.modules():
        if _mlp_parts(parent) is None:
            for name, module in parent.named_children():
                yield parent, name, module


def _replacement(native: Kernels, module: nn.Module) -> nn.Module | None:
    """A module that answers like `module`, or None."""
    if type(module) is nn.Linear:
        return PackedLinear(native, module.weight, module.bias)
    if parts := _mlp_parts(module):
        return _alike(module, GatedMlp(native, *parts), parts[0].in_features, parts[0].weight.dtype)
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if type(module).__name__.endswith("RMSNorm") and isinstance(weight, nn.Parameter) and weight.ndim == 1 and isinstance(eps, float):
        return _alike(module, NativeRmsNorm(native, weight, eps), len(weight), weight.dtype)
    return None


def _mlp_parts(module: nn.Module) -> tuple[nn.Linear, nn.Linear, nn.Linear] | None:
    """Gate, up and down of a module that has nothing else but an activation."""
    if set(module._modules) != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return None
    gate, up, down = (module._modules[name] for name in ("gate_proj", "up_proj", "down_proj"))
    if not (type(gate) is nn.Linear and type(up) is nn.Linear and type(down) is nn.Linear):
        return None
    biased = any(part._parameters["bias"] is not None for part in (gate, up))
    return None if biased else (gate, up, down)


def _alike(module: nn.Module, made: nn.Module, width: int, dtype: torch.dtype) -> nn.Module | None:
    with torch.inference_mode():
        x = torch.linspace(-2, 3, PROBE_ROWS * width).sin().view(1, PROBE_ROWS, width).to(dtype)
        wanted, got = module(x).float(), made(x).float()
    alike = wanted.shape == got.shape and float((wanted - got).abs().max()) <= TOLERANCE[dtype] * float(wanted.abs().max())
    return made if alike else None
