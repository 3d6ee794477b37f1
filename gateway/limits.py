"""What a client may ask for: every bound in one place, enforced before any work is queued."""

from __future__ import annotations

MAX_BODY_BYTES = 8 * 1024 * 1024
"""Bytes of one request body; more is answered with 413. Room for a million tokens of text."""
MAX_MESSAGES = 2048
MAX_PROMPTS = 128
"""Prompts of one `/v1/completions` request: each is a request of its own in the pool."""
MAX_CHOICES = 128
"""`n`, as OpenAI's; over all prompts of a request too."""
MAX_STOP_STRINGS = 4
MAX_STOP_CHARS = 256
MAX_SEED = 2**63 - 1
MAX_TOKENS = 2**31 - 1
MAX_TOP_LOGPROBS = 20
MAX_TOP_K = 2**31 - 1
MAX_PENALTY = 2.0
MAX_REPETITION_PENALTY = 10.0
MAX_LOGIT_BIAS_TOKENS = 1024
MAX_LOGIT_BIAS = 100.0
MAX_PRIORITY = 100
"""Of `priority`, in either direction; lower is sooner."""
MAX_TIMEOUT_S = 86_400.0
MAX_TARGET_MS = 86_400_000.0
MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 512
MAX_USER_CHARS = 512
MAX_ID_CHARS = 255
"""Of an id that a client sends back to us."""
MAX_HEADER_CHARS = 255
"""Of an idempotency key or a request id that the client chose."""
MAX_CHAIN = 256
"""Responses that `previous_response_id` may lead back over."""
MAX_DETOKENIZE = 1_000_000
COMPLETION_DEFAULT_TOKENS = 16
"""`max_tokens` of `/v1/completions` when it is absent, as OpenAI's."""
