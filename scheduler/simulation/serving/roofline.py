"""Seconds of a step on a device, from the roofline of its GPU. The scheduler never sees this: it gets a profile fitted from noisy samples.

A step's layers take the longer of computing and of reading the weights; attention is quadratic in prefill and reads the KV cache in
decode; on top comes what an engine takes for itself. The efficiencies were fitted to measured kernels of an A100 with Llama 3 8B
(0.067 ms a token above 256 tokens, 9.7 ms for one) and hold for other GPUs as far as TFLOPS and bandwidth scale: an A40 measured
0.123 ms a token where this rule says 0.134.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.simulation.serving.hardware import WEIGHT_BYTES, Gpu, Model
from shared.profile import StepShape

MATMUL_EFFICIENCY = 0.67
"""Of the dense peak, in the linear layers of a long batch: 0.067 ms a token for 7.0e9 parameters at 312 TFLOPS."""
ATTENTION_EFFICIENCY = 0.45
BANDWIDTH_EFFICIENCY = 0.80
STEP_S = 0.003
"""Of the engine itself: planning, launching, sampling."""
MEMORY_SHARE = 0.90
"""Of the memory that an engine takes."""
ACTIVATION_BYTES = 1.5e9
"""Beside weights and KV."""


@dataclass(frozen=True, slots=True)
class Device:
    gpu: Gpu
    model: Model
    slowdown: float = 1.0
    """Every step takes so many times as long."""

    def step_seconds(self, shape: StepShape) -> float:
        """Linear layers, then attention, then the LM head of the sampled rows."""
        tokens = shape.prefill_tokens + shape.decodes
        if not tokens:
            return 0.0
        linear = max(self._compute(2.0 * self.model.layer_parameters * tokens), self._read(WEIGHT_BYTES * self.model.layer_parameters))
        kv = self.model.kv_bytes_per_token
        prefill = shape.prefill_context * self.model.flops_per_pair / (self.gpu.flops_per_s * ATTENTION_EFFICIENCY)
        decode = self._read(kv * shape.decode_context)
        head = self._read(WEIGHT_BYTES * self.model.head_parameters)
        return self.slowdown * (STEP_S + linear + prefill + decode + head)

    def kv_tokens(self) -> int:
        """Tokens whose KV fits beside the weights; 0 if not even the weights do."""
        room = self.gpu.memory_bytes * MEMORY_SHARE - self.model.weight_bytes - ACTIVATION_BYTES
        return max(0, int(room / self.model.kv_bytes_per_token))

    def _compute(self, flops: float) -> float:
        return flops / (self.gpu.flops_per_s * MATMUL_EFFICIENCY)

    def _read(self, nbytes: float) -> float:
        return nbytes / (self.gpu.bytes_per_s * BANDWIDTH_EFFICIENCY)
