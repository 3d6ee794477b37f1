"""What is known of a device's speed: seconds of an engine step from its shape."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class StepShape:
    """The work in one engine step."""

    prefill_tokens: int
    prefill_context: int
    """Sum over prefill tokens of the context each attends to, in token pairs."""
    decodes: int
    decode_context: int
    """Sum over decodes of their context, in tokens."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Seconds per step, additive in the shape's terms; fitted by the profiler, corrected by live step times."""

    step_s: float
    prefill_token_s: float
    prefill_pair_s: float
    decode_s: float
    decode_context_s: float
    kv_bytes_per_token: int
    link_s: float = 0.001
    """Fixed seconds of one KV transfer."""
    link_bytes_per_s: float = 1e9

    def scaled(self, factor: float) -> Profile:
        """Of a device on which every step takes `factor` times as long; the link stays."""
        return replace(
            self,
            step_s=self.step_s * factor,
            prefill_token_s=self.prefill_token_s * factor,
            prefill_pair_s=self.prefill_pair_s * factor,
            decode_s=self.decode_s * factor,
            decode_context_s=self.decode_context_s * factor,
        )

    def step_seconds(self, shape: StepShape) -> float:
        return (
            self.step_s
            + self.prefill_token_s * shape.prefill_tokens
            + self.prefill_pair_s * shape.prefill_context
            + self.decode_s * shape.decodes
            + self.decode_context_s * shape.decode_context
        )

    def prefill_seconds(self, start: int, stop: int, chunk: int) -> float:
        """Seconds to prefill positions `[start, stop)` alone on this device in chunks of `chunk` tokens."""
        tokens = max(0, stop - start)
        pairs = (stop * (stop + 1) - start * (start + 1)) / 2
        steps = -(-tokens // max(1, chunk))
        return steps * self.step_s + tokens * self.prefill_token_s + pairs * self.prefill_pair_s

    def prefill_tokens_per_s(self, chunk: int = 512) -> float:
        """Prefill throughput of a fresh prompt of one chunk: the figure by which devices are called low- or high-end."""
        return chunk / self.prefill_seconds(0, chunk, chunk)

    def transfer_seconds(self, tokens: int) -> float:
        return self.link_s + tokens * self.kv_bytes_per_token / self.link_bytes_per_s
