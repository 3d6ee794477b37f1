"""What an answer must be: the engine without a model says it from the prompt alone; a model's is what it was without faults."""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.errors import FabricError
from shared.fabric import LoggedEntry, LogHead
from shared.messages import LogEnd, LogTokens
from shared.redis_fabric import RedisFabric
from shared.types import Phase, RequestId
from tests.machine.door import Json, Twice, Wrong
from tests.support.tiny_models import CONTEXT, VOCABULARY
from tests.support.waiting import eventually
from workers.fake_engine import FakeModel, reference_tokens

MODEL = FakeModel(vocab_size=VOCABULARY, max_model_tokens=CONTEXT)


@dataclass(slots=True)
class Oracle:
    """Judges what is in the logs. `truth`: texts by body, told before the first blow; empty for the engine without a model."""

    fabric: RedisFabric
    truth: dict[str, list[str]] = field(default_factory=dict)

    async def judge(self, request_id: RequestId, body: str, told: dict[int, str] | None, *, whole: bool) -> Phase:
        """How it ended. `told` is what a client was told, choice by choice; `whole`: it must have finished. Raises `Wrong`."""
        entries = await self._ended(request_id)
        end = entries[-1].entry
        assert isinstance(end, LogEnd)
        texts = await self._texts(request_id, entries, finished=end.phase is Phase.FINISHED)
        if end.phase is Phase.FAILED or (whole and end.phase is not Phase.FINISHED):
            raise Wrong(f"{request_id} ended as {end.phase}: {end.code} {end.error}")
        for choice, text in texts.items():
            if self.truth and not self._is_true(body, choice, text, whole=end.phase is Phase.FINISHED):
                raise Wrong(f"{request_id} choice {choice}: {text!r} is not {self.truth[body][choice]!r}")
            if told is not None and whole and told.get(choice, "") != text:
                raise Wrong(f"{request_id} choice {choice}: the client was told {told.get(choice, '')!r}, the log says {text!r}")
            if told is not None and not text.startswith(told.get(choice, "")):
                raise Wrong(f"{request_id} choice {choice}: the client was told {told[choice]!r}, which the log {text!r} does not say")
        return end.phase

    def _is_true(self, body: str, choice: int, text: str, *, whole: bool) -> bool:
        truth = self.truth[body][choice]
        return text == truth if whole else truth.startswith(text)

    async def _ended(self, request_id: RequestId) -> list[LoggedEntry]:
        """The log, once it has its end."""

        async def entries() -> list[LoggedEntry]:
            try:
                read = list(await self.fabric.read_log(request_id))
            except FabricError:
                return []  # The server is away.
            return read if read and isinstance(read[-1].entry, LogEnd) else []

        return await eventually(entries, 150.0)

    async def _texts(self, request_id: RequestId, entries: list[LoggedEntry], *, finished: bool) -> dict[int, str]:
        """Choice by choice. Raises `Wrong` if an index is missing or there twice, or a token is not the right one."""
        head = await eventually(lambda: self._head(request_id), 60.0)
        assert head is not None
        ids: dict[int, list[int]] = {choice: [] for choice in range(head.spec.sampling.n)}
        texts = dict.fromkeys(ids, "")
        for logged in entries[:-1]:
            entry = logged.entry
            assert isinstance(entry, LogTokens)
            if entry.index != len(ids[entry.choice]):
                kind = Twice if entry.index < len(ids[entry.choice]) else Wrong
                raise kind(f"{request_id} choice {entry.choice}: index {entry.index} follows {len(ids[entry.choice])} tokens")
            ids[entry.choice] += entry.token_ids
            texts[entry.choice] += entry.text
        if not self.truth:
            for choice, tokens in ids.items():
                right = reference_tokens(head.spec.prompt, head.spec.sampling, MODEL, choice=choice)
                if tuple(tokens) != (right if finished else right[: len(tokens)]):
                    raise Wrong(f"{request_id} choice {choice}: {tokens} is not {right}")
        return texts

    async def _head(self, request_id: RequestId) -> LogHead | None:
        try:
            return await self.fabric.head(request_id)
        except FabricError:
            return None


def texts_of(answer: Json) -> list[str]:
    """A whole completion's, in the order of choices."""
    return [choice["text"] for choice in sorted(answer["choices"], key=lambda choice: int(choice["index"]))]
