"""Accepts requests: checks, tokens, log header, submission. After acceptance nothing is refused any more."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from gateway.asks import Ask
from gateway.errors import Conflict
from gateway.limits import MAX_SEED
from gateway.listeners import Listeners
from gateway.metrics import Meter, Metrics
from gateway.settings import GatewaySettings
from gateway.tokenizer import Encoder
from shared.clock import Clock
from shared.errors import BadRequest, FabricUnavailable, NotFound, Refused
from shared.fabric import Fabric, LogHead, SubmitAnswer, SubmitStatus
from shared.messages import Submission
from shared.types import NO_GATEWAY, RequestId, RequestSpec


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and under which idempotency key, if any."""

    owner_key: str = ""
    idempotency_key: str = ""
    body_digest: str = ""

    @property
    def scoped_key(self) -> str:
        """One caller's keys are not another's."""
        return hashlib.sha256(f"{self.owner_key}\0{self.idempotency_key}".encode()).hexdigest() if self.idempotency_key else ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted request. `fresh` is false where an idempotency key led to an earlier one."""

    head: LogHead
    fresh: bool


class Intake:
    """The way in. `watch` is told of every fresh request, with the meter that wants to hear its log."""

    def __init__(
        self,
        settings: GatewaySettings,
        fabric: Fabric,
        encoder: Encoder,
        listeners: Listeners,
        metrics: Metrics,
        clock: Clock,
        watch: Callable[[RequestId, Meter], None],
    ) -> None:
        self._settings = settings
        self._fabric = fabric
        self._encoder = encoder
        self._listeners = listeners
        self._metrics = metrics
        self._clock = clock
        self._watch = watch
        self._model_tokens = settings.model_tokens

    async def accept(self, ask: Ask, caller: Caller) -> Accepted:
        """Raises `BadRequest`, `NotFound`, `Conflict`, `Refused` or `FabricUnavailable`; nothing is left behind then."""
        meter = Meter(self._metrics, 0)
        if ask.model != self._settings.served_model_name:
            raise unknown_model(ask.model, self._settings.served_model_name)
        prompt = await self._encode(ask)
        head = self._head(ask, prompt, caller)
        answer = await self._submit(head, self._submission(ask, head), caller)
        if answer.status is SubmitStatus.REPEATED:
            return Accepted(await self._earlier(answer.request_id), fresh=False)
        self._check(answer)
        meter.prompt_tokens = len(prompt)
        meter.start()
        self._watch(head.spec.request_id, meter)
        return Accepted(head, fresh=True)

    async def _submit(self, head: LogHead, submission: Submission, caller: Caller) -> SubmitAnswer:
        try:
            await self._fabric.create_log(head)
            return await self._fabric.submit(submission, idempotency_key=caller.scoped_key, body_digest=caller.body_digest)
        except Refused:
            self._metrics.rejected(SubmitStatus.NO_MEMORY)
            raise
        except FabricUnavailable:
            # Perhaps it was accepted and only the answer was lost; nobody will listen, so let the grace period end it.
            self._listeners.disown(submission.request_id)
            raise

    async def _encode(self, ask: Ask) -> tuple[int, ...]:
        if isinstance(ask.prompt, str):
            return await self._encoder.encode_text(ask.prompt, ask.prompt_param)
        if isinstance(ask.prompt, list):
            return await self._encoder.encode_chat(ask.prompt, ask.prompt_param)
        for position, token in enumerate(ask.prompt):
            if not 0 <= token < self._encoder.vocabulary:
                param = f"{ask.prompt_param}[{position}]"
                raise BadRequest(f"'{param}' is {token}: token ids are 0 to {self._encoder.vocabulary - 1}.", param, "invalid_value")
        return ask.prompt

    def _head(self, ask: Ask, prompt: tuple[int, ...], caller: Caller) -> LogHead:
        seed = secrets.randbelow(MAX_SEED + 1) if ask.seed is None else ask.seed
        sampling = ask.sampling(self._max_tokens(ask, len(prompt)), seed)
        spec = RequestSpec(RequestId(secrets.token_hex(12)), ask.model, prompt, sampling, self._clock.wall_ms())
        return LogHead(spec, ask.api.to_json(), caller.owner_key)

    def _max_tokens(self, ask: Ask, num_prompt: int) -> int:
        room = self._model_tokens - num_prompt
        if room < 1:
            raise BadRequest(
                f"'{ask.prompt_param}' has {num_prompt} tokens; the model's length is {self._model_tokens}, output included: shorten it.",
                ask.prompt_param,
                "context_length_exceeded",
            )
        if ask.max_tokens is None:
            return min(room, self._settings.default_max_tokens)
        if ask.max_tokens > room:
            raise BadRequest(
                f"'{ask.max_tokens_param}' is {ask.max_tokens}, but after a prompt of {num_prompt} tokens the model's length of "
                f"{self._model_tokens} leaves {room}: ask for at most {room}, or shorten the prompt.",
                ask.max_tokens_param,
                "context_length_exceeded",
            )
        return ask.max_tokens

    def _submission(self, ask: Ask, head: LogHead) -> Submission:
        spec, background = head.spec, ask.api.background
        gateway = NO_GATEWAY if background else self._settings.gateway_id
        return Submission(
            spec.request_id, len(spec.prompt), spec.sampling.max_tokens, spec.created_ms, background=background, gateway=gateway
        )

    async def _earlier(self, request_id: RequestId) -> LogHead:
        head = await self._fabric.head(request_id)
        if head is None:
            raise NotFound(f"The earlier request {request_id} of this idempotency key has expired.", None, "expired")
        return head

    def _check(self, answer: SubmitAnswer) -> None:
        if answer.status is SubmitStatus.ACCEPTED:
            return
        self._metrics.rejected(answer.status)
        if answer.status is SubmitStatus.CONFLICT:
            raise Conflict("This Idempotency-Key was used with another body: use a new key for a new request.")
        if answer.status is SubmitStatus.NO_MEMORY:
            raise Refused("The server has no memory for this request now.", answer.retry_after_s or 5.0, memory=True)
        raise Refused("Too many requests are waiting: try again later.", answer.retry_after_s)


def unknown_model(asked: str, served: str) -> NotFound:
    return NotFound(f"The model '{asked}' does not exist: this server has '{served}'.", "model", "model_not_found")


def digest(path: str, body: str) -> str:
    """What decides whether a repeated idempotency key means the same request."""
    return hashlib.sha256(f"{path}\0{body}".encode()).hexdigest()
