"""The life of a request in its pool: accepted, cancelled, closed; and its record."""

from __future__ import annotations

from collections.abc import Sequence

from shared import scripts
from shared.codec import decode, encode
from shared.connection import OutOfMemory
from shared.fabric import Bound, Record, SubmitAnswer, SubmitStatus, WriteStatus
from shared.keys import log_shard
from shared.line import APART, EARLY_S, MAX_PROMISES, MAX_RETRY_AFTER_S, PROMISE_GRACE_S, SOON_TAKES
from shared.messages import Cancel, CancelAsked, ListenerChange, Submission
from shared.rates import Allowance, Rates
from shared.redis_log import RedisLog, status
from shared.scripts import Call
from shared.types import GatewayId, Phase, RequestId, WorkerId, WorkerRef
from shared.versions import VERSION

_REFUSED = (SubmitStatus.BUSY, SubmitStatus.NO_MEMORY, SubmitStatus.OTHER_VERSION)


class RedisRequests(RedisLog):
    """The gateways' part of the fabric, and `close`."""

    async def submit(
        self, submission: Submission, *, idempotency_key: str = "", body_digest: str = "", retry_key: str = ""
    ) -> SubmitAnswer:
        """Also takes back the log of a request that is not accepted (or was made before): another try creates it anew."""
        try:
            answer = _submit_answer(await self.connection.run(self._submit(submission, idempotency_key, body_digest, retry_key)))
        except OutOfMemory:
            answer = SubmitAnswer(SubmitStatus.NO_MEMORY, submission.request_id, 1.0, Bound.SERVER)
        if answer.status in _REFUSED or answer.request_id != submission.request_id:
            await self.discard_log(submission.request_id)
        return answer

    def _submit(self, submission: Submission, idempotency_key: str, body_digest: str, retry_key: str) -> Call:
        keys, settings = self.keys, self.settings
        names = [keys.request(submission.request_id), keys.submit, keys.waiting, keys.reserved, keys.load, keys.promised]
        if idempotency_key:
            names.append(keys.idempotency(idempotency_key))
        what = (submission.request_id, encode(submission), submission.gateway, submission.num_prompt, settings.reservation(submission))
        bounds = (settings.max_waiting, submission.longest_wait_s(settings.max_predicted_wait_s), self.connection.reservable_bytes)
        promises = (retry_key, MAX_RETRY_AFTER_S, PROMISE_GRACE_S, EARLY_S, MAX_PROMISES, APART, SOON_TAKES)
        return scripts.SUBMIT(names, *what, *bounds, settings.live_ttl_s, keys.prefix + "request:", body_digest, *promises, VERSION)

    async def cancel(self, request_id: RequestId) -> Phase | None:
        settings = self.settings
        messages = (encode(CancelAsked(request_id)), encode(Cancel(request_id)))
        bounds = (settings.events_max, settings.events_ttl_s, settings.worker_stream_max, settings.worker_ttl_s)
        names = [self.keys.request(request_id), self.keys.events]
        phase = await self.connection.run(scripts.CANCEL(names, self.keys.prefix + "control:", *messages, *bounds))
        return Phase(phase.decode()) if phase else None

    async def set_listener(self, request_id: RequestId, gateway: GatewayId, listening: bool) -> None:
        change = encode(ListenerChange(request_id, gateway, listening))
        names = [self.keys.request(request_id), self.keys.events]
        bounds = (self.settings.events_max, self.settings.events_ttl_s)
        await self.connection.run(scripts.SET_LISTENER(names, gateway, "1" if listening else "0", change, *bounds))

    async def close(self, request_id: RequestId, attempt: int, phase: Phase, *, dead_letter: bool = False) -> WriteStatus:
        if not dead_letter:
            return (await self.close_many([(request_id, attempt, phase)]))[0]
        # Before the letter, or it could stand there without its prompt.
        await self.retain([request_id], self.settings.dead_letter_ttl_s)
        return status(await self.connection.run(self._close(request_id, attempt, phase, dead_letter=True)))

    async def close_many(self, ends: Sequence[tuple[RequestId, int, Phase]]) -> tuple[WriteStatus, ...]:
        """The same for many requests in one round trip; answers in order."""
        answers = await self.connection.run_many([self._close(*end) for end in ends])
        return tuple(map(status, answers))

    def _close(self, request_id: RequestId, attempt: int, phase: Phase, *, dead_letter: bool = False) -> Call:
        names = [self.keys.request(request_id), self.keys.submit, self.keys.waiting, self.keys.reserved, self.keys.dead]
        letters = (self.settings.dead_letters_max, self.settings.dead_letter_ttl_s) if dead_letter else (0, 0)
        return scripts.CLOSE(names, request_id, attempt, phase.value, self.settings.ended_ttl_s, *letters)

    async def sweep(self, request_ids: Sequence[RequestId]) -> int:
        """Deletes ended requests, records and logs, whose retention is over; the number of keys. What somebody asked to keep stays."""
        logs: dict[int, list[str]] = {}
        for request_id in request_ids:
            of = self.keys.log(request_id)
            logs.setdefault(log_shard(request_id), []).extend((of.head, of.entries))
        names = [[self.keys.request(request_id) for request_id in request_ids], *logs.values()]
        return sum(await self.connection.run_many([scripts.SWEEP(keys, self.settings.clock_step_s) for keys in names if keys]))

    async def charge(self, caller: str, rates: Rates, requests: int, tokens: int) -> Allowance:
        """Takes requests and tokens of a caller's allowances, both or nothing; a negative number gives back."""
        call = scripts.RATE([self.keys.rate(caller)], rates.requests, rates.tokens, requests, tokens)
        granted, requests_left, tokens_left, *ms = await self.connection.run(call)
        requests_full_s, tokens_full_s, wait_s = (one / 1000 if one >= 0 else -1.0 for one in ms)
        return Allowance(granted == 1, requests_left, tokens_left, requests_full_s, tokens_full_s, wait_s)

    async def record(self, request_id: RequestId) -> Record | None:
        return (await self.records((request_id,)))[0]

    async def records(self, request_ids: tuple[RequestId, ...]) -> tuple[Record | None, ...]:
        reads = [("HGETALL", self.keys.request(request_id)) for request_id in request_ids]
        answers = await self.connection.pipeline(reads)
        for at, answer in enumerate(answers):
            if isinstance(answer, Exception):
                answers[at] = await self.connection.command(*reads[at])
        pairs = zip(request_ids, answers, strict=True)
        return tuple(_record(request_id, dict(zip(flat[::2], flat[1::2], strict=True))) if flat else None for request_id, flat in pairs)


def _submit_answer(answer: list[bytes]) -> SubmitAnswer:
    what, request_id, wait, bound = (part.decode() for part in answer)
    submitted = SubmitStatus(what)
    retry_after_s = min(MAX_RETRY_AFTER_S, max(1.0, float(wait))) if submitted in _REFUSED else 0.0
    return SubmitAnswer(submitted, RequestId(request_id), retry_after_s, Bound(bound) if bound else None)


def _record(request_id: RequestId, fields: dict[bytes, bytes]) -> Record:
    return Record(
        request_id=request_id,
        phase=Phase(fields[b"phase"].decode()),
        attempt=int(fields[b"attempt"]),
        owner=worker_ref(fields[b"worker"].decode()) if b"worker" in fields else None,
        cancel_asked=b"cancel" in fields,
        crashes=int(fields[b"crashes"]),
        submission=decode(fields[b"submission"], Submission),
        listener=GatewayId(fields[b"listener"].decode()),
        num_tokens=int(fields[b"tokens"]),
    )


def worker_ref(name: str) -> WorkerRef:
    """The inverse of `str(ref)`: an incarnation has no '#'."""
    worker, _, incarnation = name.rpartition("#")
    return WorkerRef(WorkerId(worker), incarnation)
