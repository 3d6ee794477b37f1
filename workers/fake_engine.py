"""An engine without a model: the next token is a stable hash of the whole prefix, read back from the cache.

The KV of a token is two real 64-bit words in its slot. The first chains: `a * (the first word read at the position before) +
hash(token, position)`; the second mixes the first with the token. The next token hashes the words of *every* position, each
weighted by its place, as read through the block table. So a wrong block, a wrong order, a foreign or a stale byte changes the
answer, and `reference_tokens` says, without any cache, what the answer must be. All arithmetic is modulo 2**64.

A sampled request adds noise that its seed and choice name. Where it asks for more than a temperature, the prefix hashes into logits
whose best token is the greedy one, and `workers/fake_sampling.py` does with them what its parameters say.

On the wire a token's words may be repeated an odd number of times, to make its KV as large as a real model's; what arrives is
the exclusive or of all repeats, so that there, too, one foreign byte among them changes the answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from shared.errors import EngineError
from shared.profile import Profile
from shared.types import BlockId, SamplingParams, TokenSpan
from workers.engine import Int32, KVSpec, Sample, StepPlan, StepResult, TopLogprobs
from workers.fake_sampling import Drawn, is_plain, likeliest, log_softmax, pick
from workers.grammar_binding import GrammarBinder, NoGrammars
from workers.step_shape import shape_of

UInt64 = npt.NDArray[np.uint64]

MASK = (1 << 64) - 1
CHAIN = 0x9E3779B97F4A7C15
"""Odd, so multiplication by it can be undone: the chain has a closed form and costs one cumulative sum."""
UNCHAIN = pow(CHAIN, -1, 1 << 64)
WORDS = 2
BYTES_PER_TOKEN = 8 * WORDS
EVERY_CHOICE = 0x632BE59BD9B4E019
FIRST = Drawn()


def mix(value: int) -> int:
    """splitmix64's finaliser (Steele, Lea, Flood 2014): every input bit moves every output bit."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def mix_array(values: UInt64) -> UInt64:
    """`mix` of each element."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class FakeModel:
    """What makes two fake engines answer alike: their "weights" are a seed."""

    vocab_size: int = 1000
    eos_token_ids: frozenset[int] = frozenset({0})
    max_model_tokens: int = 16384
    seed: int = 0
    repeats: int = 1
    """Of a token's words on the wire; odd."""

    @property
    def kv(self) -> KVSpec:
        name = f"fake-engine/1 vocab={self.vocab_size} seed={self.seed} repeats={self.repeats}"
        nbytes = BYTES_PER_TOKEN * self.repeats
        return KVSpec(1, 1, WORDS * self.repeats, "uint64", nbytes, blake2b(name.encode(), digest_size=16).digest())

    @property
    def root(self) -> int:
        """Stands for the word before the first position."""
        return mix(self.seed)

    def choose(self, prefix: int, params: SamplingParams, choice: int, drawn: Drawn = FIRST) -> tuple[int, float, TopLogprobs]:
        """Token, its log-probability and the likeliest ones, from the hash of the prefix; the seed plays a part only if it is sampled."""
        noise = mix(params.seed ^ (choice * EVERY_CHOICE & MASK)) if params.temperature > 0 else 0
        word = mix(prefix ^ noise)
        plain = is_plain(params, drawn)
        if plain and not params.top_logprobs:
            return word % self.vocab_size, -(word >> 11) / 2**53, ()
        logits = self._logits(prefix)
        token = word % self.vocab_size if plain else pick(logits, self._gumbel(word), params, drawn, self.eos_token_ids)
        logprobs = log_softmax(logits)
        return token, float(logprobs[token]), likeliest(logprobs, params.top_logprobs)

    def _logits(self, prefix: int) -> npt.NDArray[np.float64]:
        """[vocab_size]: between 0 and 4, and 5 for the greedy token."""
        logits = 4 * self._uniform(prefix)
        logits[mix(prefix) % self.vocab_size] = 5.0
        return logits

    def _gumbel(self, word: int) -> npt.NDArray[np.float64]:
        noise: npt.NDArray[np.float64] = -np.log(-np.log(self._uniform(word)))
        return noise

    def _uniform(self, word: int) -> npt.NDArray[np.float64]:
        """[vocab_size], each strictly between 0 and 1."""
        bits = mix_array(np.arange(self.vocab_size, dtype=np.uint64) ^ np.uint64(word)) >> np.uint64(12)
        uniform: npt.NDArray[np.float64] = (bits.astype(np.float64) + 0.5) / 2.0**52
        return uniform


def reference_tokens(
    prompt: tuple[int, ...],
    sampling: SamplingParams,
    model: FakeModel | None = None,
    *,
    choice: int = 0,
    allowed: Callable[[tuple[int, ...]], Int32] | None = None,
) -> tuple[int, ...]:
    """The whole answer to a prompt, to EOS or length, from the definition alone: the oracle of every test.

    `allowed` gives the mask of a grammar behind an answer's beginning.
    """
    return tuple(token for token, _, _ in reference_samples(prompt, sampling, model, choice=choice, allowed=allowed))


def reference_samples(
    prompt: tuple[int, ...],
    sampling: SamplingParams,
    model: FakeModel | None = None,
    *,
    choice: int = 0,
    allowed: Callable[[tuple[int, ...]], Int32] | None = None,
) -> tuple[tuple[int, float, TopLogprobs], ...]:
    """The same with each token's log-probability and the likeliest alternatives."""
    model = model or FakeModel()
    tokens, answer, samples = list(prompt), list[int](), list[tuple[int, float, TopLogprobs]]()
    word, total = _read_prompt(prompt[:-1], model.root)
    longest = min(len(prompt) + sampling.max_tokens, model.max_model_tokens)
    for position in range(len(prompt) - 1, longest - 1):
        word, total = _read_token(word, total, tokens[position], position)
        drawn = Drawn(len(answer), prompt, answer, allowed(tuple(answer)) if allowed else None)
        samples.append(model.choose(total, sampling, choice, drawn))
        tokens.append(samples[-1][0])
        answer.append(tokens[-1])
        if tokens[-1] in model.eos_token_ids and not sampling.ignore_eos:
            break
    return tuple(samples)


@lru_cache(maxsize=256)
def _read_prompt(prompt: tuple[int, ...], root: int) -> tuple[int, int]:
    """(word, total) behind the prompt: the choices of a request, and whoever asks again, read it once."""
    word, total = root, 0
    for position, token in enumerate(prompt):
        word, total = _read_token(word, total, token, position)
    return word, total


def _read_token(word: int, total: int, token: int, position: int) -> tuple[int, int]:
    word = (CHAIN * word + _content(token, position)) & MASK
    return word, (total + word * _weight(position, 0) + _second(word, token) * _weight(position, 1)) & MASK


def _content(token: int, position: int) -> int:
    return mix((token << 32) | position)


def _second(word: int, token: int) -> int:
    return mix(word ^ (token << 20))


@lru_cache(maxsize=1 << 16)
def _weight(position: int, word: int) -> int:
    return mix(position * WORDS + word) | 1


@lru_cache(maxsize=4)
def _weights(length: int) -> UInt64:
    """[length, WORDS]: odd, so that any change of one word changes the sum."""
    return (mix_array(np.arange(length * WORDS, dtype=np.uint64)) | np.uint64(1)).reshape(length, WORDS)


@lru_cache(maxsize=4)
def _powers(base: int, length: int) -> UInt64:
    """`base ** position` for positions `[0, length]`."""
    powers = np.full(length + 1, base, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


class FakeEngine:
    """`Engine` over numpy. A step takes the profile's seconds; `sleep` makes them pass, for real processes.

    Steps run when they are collected, as late as an engine could: whoever touches a block that a launched step still
    writes is found out. `fault` may answer a plan with the error it shall fail with.
    """

    def __init__(
        self,
        model: FakeModel | None = None,
        *,
        block_tokens: int = 16,
        total_blocks: int = 1024,
        profile: Profile | None = None,
        sleep: Callable[[float], None] | None = None,
        fault: Callable[[StepPlan], str | None] | None = None,
        grammars: GrammarBinder | None = None,
    ) -> None:
        self.model = model or FakeModel()
        self.kv = self.model.kv
        self.block_tokens = block_tokens
        self.total_blocks = total_blocks
        self.max_model_tokens = self.model.max_model_tokens
        self.eos_token_ids = self.model.eos_token_ids
        self._profile = profile
        self._sleep = sleep
        self._fault = fault
        self._grammars = grammars or NoGrammars()
        self._cache: UInt64 = np.zeros((total_blocks * block_tokens, WORDS), dtype=np.uint64)
        self._launched: deque[StepPlan] = deque()
        self._sampled: tuple[int, ...] = ()

    # -- steps

    def launch(self, plan: StepPlan) -> None:
        """Raises `EngineError` beyond two plans outstanding."""
        if len(self._launched) >= 2:
            raise EngineError("two plans are outstanding already")
        self._launched.append(plan)

    def collect(self) -> StepResult:
        if not self._launched:
            raise EngineError("nothing was launched")
        plan = self._launched.popleft()
        if self._fault and (error := self._fault(plan)):
            self._sampled = ()
            raise EngineError(error)
        seconds = self._seconds(plan)
        if self._sleep:
            self._sleep(seconds)
        self._write(plan)
        chosen = self._sample(plan)
        self._sampled = tuple(token for token, _, _ in chosen)
        likeliest = tuple(top for _, _, top in chosen)
        return StepResult(
            plan.step, self._sampled, tuple(logprob for _, logprob, _ in chosen), seconds, likeliest if any(likeliest) else ()
        )

    def _write(self, plan: StepPlan) -> None:
        """The words of this step's tokens, chained on what the cache holds at the position before each sequence's first."""
        tokens, positions = self._tokens(plan).astype(np.uint64), plan.positions.astype(np.uint64)
        counts = np.diff(plan.starts)
        unchained = _powers(UNCHAIN, self.max_model_tokens)[plan.positions] * mix_array((tokens << np.uint64(32)) | positions)
        sums = np.cumsum(unchained, dtype=np.uint64)
        before = np.concatenate([np.zeros(1, dtype=np.uint64), sums])[plan.starts[:-1]]
        words = _powers(CHAIN, self.max_model_tokens)[plan.positions] * (sums + np.repeat(self._carried(plan) - before, counts))
        self._cache[plan.slots, 0] = words
        self._cache[plan.slots, 1] = mix_array(words ^ (tokens << np.uint64(20)))

    def _tokens(self, plan: StepPlan) -> Int32:
        """Token ids, with references to the previous plan's samples looked up."""
        unknown = np.flatnonzero(plan.inputs >= 0)
        if not len(unknown):
            return plan.token_ids
        if not self._sampled:
            raise EngineError("the plan refers to samples of a step that failed")
        tokens = plan.token_ids.copy()
        tokens[unknown] = np.array(self._sampled, dtype=np.int32)[plan.inputs[unknown]]
        return tokens

    def _carried(self, plan: StepPlan) -> UInt64:
        """[S]: the chain's value before each sequence's first token, unchained to position 0."""
        first = plan.positions[plan.starts[:-1]]
        before = np.maximum(first - 1, 0)
        slots = self._slots_at(plan.block_tables, np.arange(len(first)), before)
        read = self._cache[slots, 0] * _powers(UNCHAIN, self.max_model_tokens)[before]
        return np.where(first > 0, read, np.uint64(CHAIN * self.model.root & MASK))

    def _slots_at(self, tables: Int32, rows: npt.NDArray[np.intp], positions: Int32) -> npt.NDArray[np.intp]:
        blocks = tables[rows, positions // self.block_tokens].astype(np.intp)
        return blocks * self.block_tokens + positions % self.block_tokens

    def _sample(self, plan: StepPlan) -> list[tuple[int, float, TopLogprobs]]:
        """Each sampled row hashes its sequence's whole cache."""
        rows = np.searchsorted(plan.starts, [sample.row for sample in plan.samples], side="right") - 1
        prefixes = [self._prefix_hash(plan.block_tables[row], int(plan.contexts[row])) for row in rows]
        bound = self._grammars.bind(plan.samples, lambda: self._sampled)
        pairs = zip(prefixes, bound.result() if bound else plan.samples, strict=True)
        return [self.model.choose(prefix, sample.params, sample.choice, self._drawn(sample)) for prefix, sample in pairs]

    def _drawn(self, sample: Sample) -> Drawn:
        """With the token that the step before sampled in its place."""
        history = sample.history
        if history is None:
            return Drawn(sample.index, allowed=sample.allowed)
        tokens = history.token_ids.tolist() + ([self._sampled[history.pending]] if history.pending >= 0 else [])
        return Drawn(sample.index, tokens[: history.num_prompt], tokens[history.num_prompt :], sample.allowed)

    def _prefix_hash(self, table: Int32, context: int) -> int:
        blocks = table[: -(-context // self.block_tokens)]
        words = self._cache.reshape(self.total_blocks, -1)[blocks].reshape(-1, WORDS)[:context]
        return int((words * _weights(self.max_model_tokens)[:context]).sum(dtype=np.uint64))

    def _seconds(self, plan: StepPlan) -> float:
        return self._profile.step_seconds(shape_of(plan)) if self._profile else 0.0

    # -- KV bytes

    def gather(self, blocks: tuple[BlockId, ...], span: TokenSpan, out: memoryview) -> None:
        self._wire(out, span)[:] = self._cache[self._span_slots(blocks, span)][:, None]

    def scatter(self, blocks: tuple[BlockId, ...], span: TokenSpan, data: memoryview) -> None:
        self._cache[self._span_slots(blocks, span)] = np.bitwise_xor.reduce(self._wire(data, span), axis=1)

    def _wire(self, data: memoryview, span: TokenSpan) -> UInt64:
        """[tokens, repeats, WORDS]"""
        return np.frombuffer(data, dtype=np.uint64).reshape(len(span), self.model.repeats, WORDS)

    def _span_slots(self, blocks: tuple[BlockId, ...], span: TokenSpan) -> npt.NDArray[np.intp]:
        table = np.array([blocks], dtype=np.int32)
        positions = np.arange(span.start, span.stop, dtype=np.int32)
        return self._slots_at(table, np.zeros(len(span), dtype=np.intp), positions)

    def close(self) -> None:
        self._launched.clear()
        self._grammars.close()
