"""One process per device: batching, paged KV, prefill, decode and KV transfer."""
