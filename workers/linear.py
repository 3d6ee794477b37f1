"""The seam for `Linear` and its neighbours: modules that compute what a model's own do, over packed weights.

Each takes one kind of module of a `transformers` model and answers like it, in the module's dtype. `workers.acceleration`
decides which modules are replaced.
"""

from __future__ import annotations

import torch
from torch import nn

from workers.native import Kernels


class PackedLinear(nn.Module):
    """`nn.Linear` over weights `[N, K]` packed into panels; `x` is `[..., K]`, the answer `[..., N]`.

    Built from two weights it is gated: `silu(x @ gate.T) * (x @ up.T)`, one pass over both.
    """

    def __init__(self, native: Kernels, weight: torch.Tensor, bias: torch.Tensor | None = None, up: torch.Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._native = native
        self._gated = int(up is not None)
        self._panels = _fixed(_pack(native, weight, up))
        self._bias = None if bias is None else _fixed(bias.float().contiguous())
        self._bias_address = None if self._bias is None else self._bias.data_ptr()

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}{', gated' if self._gated else ''}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != self._panels.dtype or x.shape[-1] != self.in_features:
            raise TypeError(f"{self!r} over {self._panels.dtype} takes no {x.dtype} {tuple(x.shape)}")
        x = x.contiguous()
        out = x.new_empty((*x.shape[:-1], self.out_features))
        self._native.linear(
            x.data_ptr(),
            self._panels.data_ptr(),
            self._bias_address,
            out.data_ptr(),
            x.numel() // self.in_features,
            self.in_features,
            self.out_features,
            self._gated,
            torch.get_num_threads(),
        )
        return out


def _fixed(weight: torch.Tensor) -> nn.Parameter:
    """A weight, and known as one: a plain tensor of a module would be taken for state that it keeps."""
    return nn.Parameter(weight.detach(), requires_grad=False)


def _pack(native: Kernels, weight: torch.Tensor, up: torch.Tensor | None) -> torch.Tensor:
    first, second = weight.detach().contiguous(), None if up is None else up.detach().contiguous()
    width = native.panel_columns // (1 if second is None else 2)
    panels = -(-len(first) // width)
    packed = torch.empty((panels, native.panel_columns * first.shape[1]), dtype=first.dtype)
    native.pack(first.data_ptr(), None if second is None else second.data_ptr(), *first.shape, packed.data_ptr())
    return packed


class OneDnnLinear(nn.Module):
    """`nn.Linear` over weights packed by oneDNN, for processors that have instructions for bfloat16 products."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._packed = _fixed(torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None))
        self._bias = None if bias is None else _fixed(bias)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return out


class GatedMlp(nn.Module):
    """`down(silu(gate(x)) * up(x))`, as Llama, Qwen, Mistral and their kin have it."""

    def __init__(self, native: Kernels, gate: nn.Linear, up: nn.Linear, down: nn.Linear) -> None:
        super().__init__()
        self._gate_up = PackedLinear(native, gate.weight, up=up.weight)
        self.down_proj = PackedLinear(native, down.weight, down.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down_proj(self._gate_up(x))
        return out


class NativeRmsNorm(nn.Module):
    """`weight * x / sqrt(mean(x^2) + eps)` over the last dimension, normalised in float32 (Zhang and Sennrich, 2019)."""

    def __init__(self, native: Kernels, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        self._native = native
        self._eps = eps
        self.weight = _fixed(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != self.weight.dtype:
            raise TypeError(f"RMS norm over {self.weight.dtype} takes no {x.dtype}")
        x = x.contiguous()
        out = torch.empty_like(x)
        width = x.shape[-1]
        rows = x.numel() // width
        self._native.rms_norm(x.data_ptr(), self.weight.data_ptr(), out.data_ptr(), rows, width, self._eps, torch.get_num_threads())
        return out
