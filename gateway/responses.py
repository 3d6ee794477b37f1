"""`/v1/responses` as a fold of the log: the object a client polls and the events it streams."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.fold import Body, Fold, Json
from gateway.logprobs import content_logprobs
from shared.messages import LogTokens
from shared.types import FinishReason, Phase


class ResponseFold(Fold):
    """One message item with one text part. Created and queued come from the head, in progress from the first token."""

    def _open(self) -> Iterator[Body]:
        yield self._event("response.created", response=self.answer())
        yield self._event("response.queued", response=self.answer())

    def _tokens(self, entry: LogTokens, *, first: bool) -> Iterator[Body]:
        if first:
            yield from self._start()
        if entry.text:
            yield self._event("response.output_text.delta", **self._place(), delta=entry.text, logprobs=self._news())

    def _start(self) -> Iterator[Body]:
        # The item starts empty, whatever text the first entry brings along.
        item = {**self._item("in_progress"), "content": []}
        yield self._event("response.in_progress", response={**self.answer(), "output": []})
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._event("response.content_part.added", **self._place(), part=_part("", []))

    def _finished(self) -> Iterator[Body]:
        text, told = self.transcript.text, self._told()
        yield self._event("response.output_text.done", **self._place(), text=text, logprobs=told)
        yield self._event("response.content_part.done", **self._place(), part=_part(text, told))
        yield self._event("response.output_item.done", output_index=0, item=self._item(self.status))
        yield self._event(f"response.{self.status}", response=self.answer())

    def _fail(self, message: str, code: str) -> Iterator[Body]:
        yield self._event("error", code=code, message=message, param=None)
        yield self._event("response.failed", response={**self.answer(), "status": "failed", "error": _error(message, code)})

    def _cancelled(self) -> Iterator[Body]:
        """The API has no event for it: the stream ends, the object says `cancelled`."""
        return iter(())

    @property
    def status(self) -> str:
        end = self.transcript.end
        if end is None:
            return "in_progress" if self.transcript.started else "queued"
        if end.phase is Phase.FINISHED:
            return "incomplete" if self.transcript.finish is FinishReason.LENGTH else "completed"
        return "cancelled" if end.phase is Phase.CANCELLED else "failed"

    def answer(self) -> Json:
        status, end = self.status, self.transcript.end
        failed = end is not None and end.phase is Phase.FAILED
        return {
            "id": self.public_id,
            "object": "response",
            "created_at": self.created,
            "completed_at": end.at_ms // 1000 if end is not None and status == "completed" else None,
            "status": status,
            "background": self.api.background,
            "error": _error(end.error or "The request failed.", end.code or "request_failed") if failed and end is not None else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self.model,
            "output": [self._item(_item_status(status))] if self.transcript.started else [],
            "usage": self._usage() if end is not None else None,
            **self._sampling(),
            **_NOT_SERVED,
            **self.api.echo,
        }

    def _event(self, kind: str, **fields: object) -> Body:
        return kind, {"type": kind, **fields}

    def _place(self) -> Json:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    @property
    def _item_id(self) -> str:
        return f"msg_{self.request_id}"

    def _item(self, status: str) -> Json:
        return {
            "id": self._item_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [_part(self.transcript.text, self._told())],
        }

    def _sampling(self) -> Json:
        sampling = self.head.spec.sampling
        return {
            "max_output_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "top_logprobs": sampling.top_logprobs,
            "previous_response_id": f"{self.api.kind.prefix}{self.api.previous}" if self.api.previous else None,
        }

    def _news(self) -> list[Json]:
        """Log probabilities that no event has shown yet."""
        logprobs = self.transcript.choices[0].logprobs
        return [] if logprobs is None else content_logprobs(logprobs.news(), self.names)

    def _told(self) -> list[Json]:
        logprobs = self.transcript.choices[0].logprobs
        return [] if logprobs is None else content_logprobs(logprobs.tokens, self.names)

    def _usage(self) -> Json:
        prompt, generated = self.transcript.prompt_tokens, self.transcript.generated
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self.transcript.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + generated,
        }


_NOT_SERVED: Json = {
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "truncation": "disabled",
    "text": {"format": {"type": "text"}},
    "reasoning": None,
    "max_tool_calls": None,
    "service_tier": "default",
    "safety_identifier": None,
    "prompt_cache_key": None,
    "instructions": None,
    "metadata": {},
    "user": None,
    "store": True,
}
"""Fields that clients require to be present, at the values that say "not used"; `ApiHead.echo` has the ones that were sent."""


def _part(text: str, logprobs: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _error(message: str, code: str) -> Json:
    """`code` must be one of the API's own words; ours stands in `type`, which is free."""
    return {"code": "server_error", "message": message, "type": code}


def _item_status(status: str) -> str:
    return status if status in ("completed", "in_progress") else "incomplete"
