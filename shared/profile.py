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
    """Seconds per step; fitted by the profiler, corrected by live step times. The terms and their fit: `docs/profiles.md`.

    Ask `step_seconds` and the methods beside it; only they know how the terms work together.
    """

    step_s: float
    prefill_token_s: float
    prefill_pair_s: float
    decode_s: float
    decode_context_s: float
    kv_bytes_per_token: int
    link_s: float = 0.001
    """Fixed seconds of one KV transfer."""
    link_bytes_per_s: float = 1e9
    free_tokens: float = 0.0
    """Tokens of a step, decodes among them, that its linear layers take along while they read the weights, in `step_s`. Beyond them each
    costs `prefill_token_s`. 0: decodes cost nothing there, and every prefill token does."""

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
        return self.seconds(shape.prefill_tokens, shape.prefill_context, shape.decodes, shape.decode_context)

    def seconds(self, prefill_tokens: int, prefill_context: int, decodes: int, decode_context: int) -> float:
        """Of a step of that shape: for who asks so often that making a `StepShape` would cost more than the answer."""
        return (
            self.step_s
            + self.prefill_token_s * self._costly_tokens(prefill_tokens, decodes)
            + self.prefill_pair_s * prefill_context
            + self.decode_s * decodes
            + self.decode_context_s * decode_context
        )

    def _costly_tokens(self, prefill_tokens: int, decodes: int) -> float:
        """Tokens whose products take longer than reading the weights: the hinge of the roofline."""
        if not self.free_tokens:
            return prefill_tokens
        return max(0.0, prefill_tokens + decodes - self.free_tokens)

    def prefill_seconds(self, start: int, stop: int, chunk: int) -> float:
        """Seconds to prefill positions `[start, stop)` alone on this device in chunks of `chunk` tokens."""
        tokens = max(0, stop - start)
        pairs = (stop * (stop + 1) - start * (start + 1)) / 2
        whole, rest = divmod(tokens, max(1, chunk))
        costly = whole * max(0.0, max(1, chunk) - self.free_tokens) + max(0.0, rest - self.free_tokens)
        return (whole + (rest > 0)) * self.step_s + costly * self.prefill_token_s + pairs * self.prefill_pair_s

    def prefill_tokens_per_s(self, chunk: int = 512) -> float:
        """Prefill throughput of a fresh prompt of one chunk: the figure by which devices are called low- or high-end."""
        return chunk / self.prefill_seconds(0, chunk, chunk)

    def transfer_seconds(self, tokens: int) -> float:
        return self.link_s + tokens * self.kv_bytes_per_token / self.link_bytes_per_s
