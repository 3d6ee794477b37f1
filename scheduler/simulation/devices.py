"""Device models of the small simulated worlds: slow enough that a few requests already queue."""

from __future__ import annotations

from shared.profile import Profile

KV_BYTES_PER_TOKEN = 16

HIGH_END = Profile(
    step_s=0.010,
    prefill_token_s=0.0007,
    prefill_pair_s=2e-7,
    decode_s=0.0005,
    decode_context_s=1e-6,
    kv_bytes_per_token=KV_BYTES_PER_TOKEN,
    link_s=0.004,
    link_bytes_per_s=2e5,
)
LOW_END = Profile(
    step_s=0.020,
    prefill_token_s=0.0012,
    prefill_pair_s=6e-7,
    decode_s=0.002,
    decode_context_s=4e-6,
    kv_bytes_per_token=KV_BYTES_PER_TOKEN,
    link_s=0.004,
    link_bytes_per_s=2e5,
)
