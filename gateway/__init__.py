"""The HTTP door: OpenAI-compatible REST, polling and server-sent events."""
