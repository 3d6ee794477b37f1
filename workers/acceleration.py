"""Which modules of a loaded model are replaced by quicker ones that compute the same.

A module is recognised by its parts and then asked: on random input the replacement must answer what it answers, else it
stays. The whole model is proven again afterwards (`workers.proofs.prove_packing`); if that fails, all is undone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
from torch import nn

from workers.device import has_bfloat16_products
from workers.linear import GatedMlp, NativeRmsNorm, OneDnnLinear, PackedLinear
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
    if device.type != "cpu":
        return done
    native, one_dnn = kernels(dtype), dtype == torch.bfloat16 and has_bfloat16_products()
    _replace_within(model, native, one_dnn, done)
    log.info("%d modules were replaced by quicker ones, linears by %s", len(done.replaced), "oneDNN's" if one_dnn else "native ones")
    return done


def _replace_within(parent: nn.Module, native: Kernels | None, one_dnn: bool, done: Acceleration) -> None:
    """Outer modules first: what is replaced whole is not looked into."""
    for name, module in list(parent.named_children()):
        made = _replacement(native, one_dnn, module)
        if made is None:
            _replace_within(module, native, one_dnn, done)
        else:
            setattr(parent, name, made)
            done.replaced.append((parent, name, module))


def _replacement(native: Kernels | None, one_dnn: bool, module: nn.Module) -> nn.Module | None:
    """A module that answers like `module`, or None."""
    if type(module) is nn.Linear and one_dnn:
        return OneDnnLinear(module.weight, module.bias)
    if native is None:
        return None
    if type(module) is nn.Linear:
        return PackedLinear(native, module.weight, module.bias)
    if not one_dnn and (parts := _mlp_parts(module)):
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
