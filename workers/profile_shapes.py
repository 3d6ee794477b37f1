"""Which steps a device is measured at: to fit a profile to, and to hold it against.

One list for every device, real or simulated: prefill chunks behind contexts, decode batches at contexts, and both in one step.
What is held out lies between what is fitted, so that its error says how well the profile knows steps that it has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from shared.profile import StepShape


class StepClass(StrEnum):
    """What is in a step."""

    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Work:
    """A step: a prefill of `[start, stop)` of one prompt beside decodes of other sequences that reach `context` tokens each."""

    start: int = 0
    stop: int = 0
    decodes: int = 0
    context: int = 0
    held_out: bool = False
    """Never fitted to."""

    @property
    def shape(self) -> StepShape:
        pairs = (self.stop * (self.stop + 1) - self.start * (self.start + 1)) // 2
        return StepShape(self.stop - self.start, pairs, self.decodes, self.decodes * self.context)

    @property
    def tokens(self) -> int:
        return self.stop - self.start + self.decodes

    @property
    def sequences(self) -> tuple[int, ...]:
        """Tokens in the cache of each sequence after the step, the prompt's first."""
        return (self.stop,) * (self.stop > self.start) + (self.context,) * self.decodes


def class_of(shape: StepShape) -> StepClass:
    if not shape.decodes:
        return StepClass.PREFILL
    return StepClass.MIXED if shape.prefill_tokens else StepClass.DECODE


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a device can be asked."""

    token_budget: int
    max_sequences: int
    max_context: int
    """Tokens of the longest sequence."""
    total_blocks: int
    block_tokens: int

    def allow(self, work: Work) -> bool:
        blocks = sum(-(-tokens // self.block_tokens) for tokens in work.sequences)
        fits = 0 < work.tokens <= self.token_budget and len(work.sequences) <= self.max_sequences and blocks <= self.total_blocks
        return fits and max(work.sequences) <= self.max_context


def works(bounds: Bounds) -> list[Work]:
    """All that the bounds allow, coarse before fine and every class from the start: who must stop early has some of each."""
    chunks, later = _chunks(bounds, (16, 4, 1)), _contexts(bounds, (4, 1))
    batches, contexts = _batches(bounds, (1 / 32, 1 / 8, 1 / 3, 1.0)), _contexts(bounds, (8, 1))
    between, beside = [*_chunks(bounds, (8,)), *(3 * chunk // 2 for chunk in chunks[-2:-1])], _contexts(bounds, (6, 2))
    some = _batches(bounds, (1 / 16, 1 / 5, 2 / 3))
    fitted = (
        [_chunk(bounds, chunk, context) for context, chunk in product((0, *later), reversed(chunks))],
        [Work(decodes=batch, context=context) for context, batch in product(contexts, batches)],
        [_mixed(bounds, chunk, context, batch) for context, batch, chunk in product(later, batches[1:], chunks)],
    )
    held_out = (
        [_chunk(bounds, chunk, context, True) for context, chunk in product((0, *beside), between)],
        [Work(decodes=batch, context=context, held_out=True) for context, batch in product(beside, some)],
        [_mixed(bounds, chunk, context, batch, True) for context, batch, chunk in product(beside, some[1:], between)],
    )
    known = [_allowed(bounds, each, set()) for each in fitted]
    unseen = [_allowed(bounds, each, {work.shape for list_ in known for work in list_}) for each in held_out]
    return _merged([_merged(known), _merged(unseen)])


def _chunks(bounds: Bounds, shares: Sequence[int]) -> list[int]:
    """Prefill chunks: these fractions of the budget, ascending."""
    return sorted({max(2, min(bounds.token_budget, bounds.max_context) // share) for share in shares})


def _contexts(bounds: Bounds, shares: Sequence[int]) -> list[int]:
    return sorted({max(2, bounds.max_context // share) for share in shares})


def _batches(bounds: Bounds, shares: Sequence[float]) -> list[int]:
    """Decodes in a step: these fractions of all sequences but one, ascending."""
    return sorted({max(1, round((bounds.max_sequences - 1) * share)) for share in shares})


def _chunk(bounds: Bounds, chunk: int, context: int, held_out: bool = False) -> Work:
    """`chunk` tokens behind `context`, as far as the longest sequence goes."""
    start = min(context, max(0, bounds.max_context - chunk))
    return Work(start, min(start + chunk, bounds.max_context), held_out=held_out)


def _mixed(bounds: Bounds, chunk: int, context: int, decodes: int, held_out: bool = False) -> Work:
    prompt = _chunk(bounds, max(2, min(chunk, bounds.token_budget - decodes)), context // 2)
    return Work(prompt.start, prompt.stop, decodes, context, held_out)


def _allowed(bounds: Bounds, wanted: Sequence[Work], seen: set[StepShape]) -> list[Work]:
    """In a stride over the list, so that its beginning already spans it."""
    allowed = [work for work in dict.fromkeys(wanted) if bounds.allow(work) and work.shape not in seen]
    return [allowed[at] for offset in (0, 2, 1) for at in range(offset, len(allowed), 3)]


def _merged(lists: Sequence[list[Work]]) -> list[Work]:
    """One list, in which each given one advances at its own even pace."""
    placed = [((at + 0.5) / len(each), number, work) for number, each in enumerate(lists) for at, work in enumerate(each)]
    return [work for _, _, work in sorted(placed, key=lambda one: one[:2])]
