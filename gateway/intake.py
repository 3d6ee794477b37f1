"""Accepts requests: checks, tokens, log header, submission. After acceptance nothing is refused any more."""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from gateway.asks import Ask, Prompt
from gateway.auth import salt_of
from gateway.bundle import part_id
from gateway.errors import Conflict, OtherVersion
from gateway.fold import ApiHead
from gateway.limits import MAX_SEED
from gateway.metrics import Meter, Targets
from gateway.pools import ModelPool
from gateway.prompts import Limits, check_bias, encode
from gateway.rate_limits import RateLimits
from gateway.settings import GatewaySettings
from gateway.tools_intake import formed
from gateway.tracing import RequestTrace
from shared.clock import Clock
from shared.errors import FabricError, FabricUnavailable, HeadstartError, NotFound, Refused
from shared.fabric import Bound, LogHead, SubmitAnswer, SubmitStatus
from shared.messages import Submission
from shared.prefixes import prefix_hashes
from shared.rates import NO_RATES, Rates
from shared.types import NO_GATEWAY, RequestId, RequestSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and under which idempotency key, if any."""

    owner_key: str = ""
    idempotency_key: str = ""
    body_digest: str = ""
    rates: Rates = NO_RATES

    @property
    def scoped_key(self) -> str:
        """One caller's keys are not another's."""
        return hashlib.sha256(f"{self.owner_key}\0{self.idempotency_key}".encode()).hexdigest() if self.idempotency_key else ""

    def retry_key(self, part: int) -> str:
        """By what a refused request is known when it comes again: its caller and its body, and which of its prompts."""
        return hashlib.sha256(f"{self.owner_key}\0{self.body_digest}\0{part}".encode()).hexdigest()[:32] if self.body_digest else ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted request: one head, or one for each prompt. `fresh` is false where an idempotency key led to an earlier one."""

    heads: tuple[LogHead, ...]
    fresh: bool
    rate_headers: Mapping[str, str] = field(default_factory=dict)
    """What the caller's key has left."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One prompt on its way into the pool."""

    head: LogHead
    submission: Submission
    meter: Meter
    trace: RequestTrace

    @property
    def most_tokens(self) -> int:
        """That it may generate, over all choices."""
        return self.head.spec.sampling.max_tokens * self.head.spec.sampling.n


class Intake:
    """The way into one pool."""

    def __init__(self, settings: GatewaySettings, pool: ModelPool, clock: Clock, rate_limits: RateLimits) -> None:
        self._settings = settings
        self._rate_limits = rate_limits
        self._pool = pool
        self._clock = clock

    async def accept(self, ask: Ask, caller: Caller) -> Accepted:
        """Raises `BadRequest`, `NotFound`, `Conflict`, `RateLimited`, `Refused` or `FabricUnavailable`; nothing is left behind then."""
        traces = [RequestTrace() for _ in ask.prompts]
        try:
            return await self._accept(ask, caller, traces)
        except BaseException as error:
            for trace in traces:
                trace.refused(error)
            raise

    async def _accept(self, ask: Ask, caller: Caller, traces: Sequence[RequestTrace]) -> Accepted:
        owner, rates, limits = caller.owner_key, caller.rates, self._rate_limits
        headers = await limits.take_request(owner, rates)
        parts = await self._parts(ask, caller, traces)
        tokens = sum(part.most_tokens + len(part.head.spec.prompt) for part in parts)
        headers |= await limits.take_tokens(owner, rates, tokens)
        try:
            accepted = await self._tell(parts, caller)
        except BaseException:
            limits.give_back(owner, rates, tokens)
            raise
        if not accepted.fresh:
            limits.give_back(owner, rates, tokens)
        return replace(accepted, rate_headers=headers)

    async def _tell(self, parts: Sequence[_Part], caller: Caller) -> Accepted:
        """Into the pool, all of them or none."""
        # Part 0 is the commit: only it knows the idempotency key, and who finds it finds all others accepted.
        told: list[_Part] = []
        try:
            for part in reversed(parts[1:]):
                self._check(await self._submit(part, replace(caller, idempotency_key="")))
                told.append(part)
            answer = await self._submit(parts[0], caller)
            if answer.status is SubmitStatus.REPEATED:
                await self._take_back(told)
                earlier = await self._earlier(answer.request_id)
                for part in parts:
                    part.trace.repeated()
                return Accepted((earlier,), fresh=False)
            self._check(answer)
        except HeadstartError:
            await self._take_back(told)
            raise
        for part in parts:
            self._begin(part, caller)
        return Accepted(tuple(part.head for part in parts), fresh=True)

    def _begin(self, part: _Part, caller: Caller) -> None:
        """Accepted: from now on its log is listened to."""
        spec = part.head.spec
        part.meter.start()
        self._pool.follower.attach(spec.request_id, part.meter)
        if caller.rates.tokens:
            refund = self._rate_limits.refund(caller.owner_key, caller.rates, part.most_tokens)
            self._pool.follower.attach(spec.request_id, refund)
        part.trace.accepted(spec.request_id, spec.model, len(spec.prompt))
        if part.trace.watches:
            self._pool.follower.attach(spec.request_id, part.trace)
        log.debug("accepted", extra={"request": spec.request_id, "prompt_tokens": len(spec.prompt)})

    async def _parts(self, ask: Ask, caller: Caller, traces: Sequence[RequestTrace]) -> list[_Part]:
        limits = Limits(self._pool.model_tokens, self._pool.room_tokens, self._settings.default_max_tokens)
        check_bias(ask, self._pool.encoder.vocabulary)
        ask = await formed(ask, self._pool.encoder)
        request_id, created_ms = RequestId(secrets.token_hex(12)), self._clock.wall_ms()
        parts = []
        for number, (prompt, trace) in enumerate(zip(ask.prompts, traces, strict=True)):
            param = ask.prompt_param if len(ask.prompts) == 1 else f"{ask.prompt_param}[{number}]"
            meter = Meter(self._pool.metrics, 0, targets=Targets(ask.ttft_target_s, ask.itl_target_s), choices=ask.sampling.n)
            ids = await encode(ask, prompt, param, self._pool.encoder, limits)
            sampling = replace(
                ask.sampling,
                max_tokens=limits.max_tokens(ask, len(ids), param),
                seed=secrets.randbelow(MAX_SEED + 1) if ask.seed is None else ask.seed,
            )
            salt = salt_of(caller.owner_key)
            spec = RequestSpec(part_id(request_id, number), ask.model, ids, sampling, created_ms, salt, trace.text)
            api = replace(ask.api, part=number, bundle=request_id if number else "", prefix=await self._echo(ask, prompt))
            head = LogHead(spec, api.to_json(), caller.owner_key)
            meter.prompt_tokens = len(ids)
            parts.append(_Part(head, self._submission(ask, spec), meter, trace))
        return parts

    async def _echo(self, ask: Ask, prompt: Prompt) -> str:
        if not ask.echo or isinstance(prompt, list):
            return ""
        return prompt if isinstance(prompt, str) else await self._pool.encoder.decode(prompt)

    def _submission(self, ask: Ask, spec: RequestSpec) -> Submission:
        background = ask.api.background
        return Submission(
            spec.request_id,
            len(spec.prompt),
            spec.sampling.max_tokens,
            spec.created_ms,
            priority=ask.priority,
            timeout_s=ask.timeout_s,
            background=background,
            gateway=NO_GATEWAY if background else self._settings.gateway_id,
            num_choices=spec.sampling.n,
            prefix=prefix_hashes(spec.prompt, spec.salt),
            trace=spec.trace,
            ttft_target_s=ask.ttft_target_s,
            itl_target_s=ask.itl_target_s,
        )

    async def _submit(self, part: _Part, caller: Caller) -> SubmitAnswer:
        fabric = self._pool.fabric
        try:
            await fabric.create_log(part.head)
            retry_key = caller.retry_key(ApiHead.from_json(part.head.api).part)
            return await fabric.submit(
                part.submission, idempotency_key=caller.scoped_key, body_digest=caller.body_digest, retry_key=retry_key
            )
        except Refused:
            self._pool.metrics.rejected(Bound.SERVER)
            raise
        except FabricUnavailable:
            # Perhaps it was accepted and only the answer was lost; nobody will listen, so let the grace period end it.
            self._pool.listeners.disown(part.submission.request_id)
            raise

    async def _take_back(self, parts: list[_Part]) -> None:
        """Parts of an answer that will not be: cancelled, and where even that fails, left to the grace period."""
        for part in parts:
            self._pool.listeners.disown(part.submission.request_id)
            with suppress(FabricError):
                await self._pool.fabric.cancel(part.submission.request_id)

    async def _earlier(self, request_id: RequestId) -> LogHead:
        head = await self._pool.fabric.head(request_id)
        if head is None:
            raise NotFound(f"The earlier request {request_id} of this idempotency key has expired.", None, "expired")
        return head

    def _check(self, answer: SubmitAnswer) -> None:
        if answer.status is SubmitStatus.ACCEPTED:
            return
        self._pool.metrics.rejected(answer.bound or answer.status)
        if answer.status is SubmitStatus.CONFLICT:
            raise Conflict("This Idempotency-Key was used with another body: use a new key for a new request.")
        if answer.status is SubmitStatus.OTHER_VERSION:
            raise OtherVersion("This gateway and the pool's scheduler are too many releases apart: ask another gateway.")
        raise refusal(answer)


WHY = {
    Bound.WAITING: "Too many requests are waiting.",
    Bound.TIME: "The requests that wait would keep this one waiting too long.",
    Bound.KV: "The requests that wait need all the KV memory that the workers will have in time.",
    Bound.SERVER: "The message server has no memory for this request now.",
}


def refusal(answer: SubmitAnswer) -> Refused:
    """With what is full and when to come again; the same body finds its place kept."""
    retry_after_s = answer.retry_after_s or 5.0
    why = WHY[answer.bound or Bound.WAITING]
    message = f"{why} Send the same request again in {math.ceil(retry_after_s)} s."
    return Refused(message, retry_after_s, memory=answer.status is SubmitStatus.NO_MEMORY)


def digest(path: str, body: str) -> str:
    """What decides whether a repeated idempotency key means the same request."""
    return hashlib.sha256(f"{path}\0{body}".encode()).hexdigest()
