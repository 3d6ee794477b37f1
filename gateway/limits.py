"""What a client may ask for: every bound in one place, enforced before any work is queued."""

from __future__ import annotations

MAX_BODY_BYTES = 8 * 1024 * 1024
"""Bytes of one request body; more is answered with 413. Room for a million tokens of text."""
MAX_MESSAGES = 2048
MAX_STOP_STRINGS = 4
MAX_STOP_CHARS = 256
MAX_SEED = 2**63 - 1
MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 512
MAX_USER_CHARS = 512
MAX_HEADER_CHARS = 255
"""Of an idempotency key or a request id that the client chose."""
COMPLETION_DEFAULT_TOKENS = 16
"""`max_tokens` of `/v1/completions` when it is absent, as OpenAI's."""
