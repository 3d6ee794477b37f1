"""Who attends to what in one step: a `StepPlan`'s sequences as index tensors and masks on the device, shared by all layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from workers.engine import Int32, StepPlan

Int64 = npt.NDArray[np.int64]

PADDED_DECODE_TOKENS = {"cpu": 4096, "cuda": 1 << 18}
"""Up to how many gathered and padded tokens decodes are attended in one call.

A CPU pays a copy for the gather and nothing for a view: measured with 4 KV heads of 64, padding wins 4x at 32 decodes of
64 tokens and loses 2x at 32 of 512. A GPU pays per kernel launch, and for the memory of the copy.
"""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Flat tokens `[start, stop)`: the newest of the `context` tokens of one sequence, whose blocks are `blocks`."""

    start: int
    stop: int
    context: int
    blocks: Int32
    contiguous: bool

    @property
    def first(self) -> int:
        """Position of the chunk's first token."""
        return self.context - (self.stop - self.start)

    def seen_from(self, window: int | None) -> int:
        """The earliest position that any token of the chunk sees."""
        return 0 if window is None else max(0, self.first - window + 1)


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Decodes of similar contexts that are attended together; `rows` indexes their flat tokens."""

    number: int
    members: list[Chunk]
    rows: torch.Tensor


@dataclass(frozen=True, slots=True)
class Decodes:
    """All decodes of a step, for a kernel that reads blocks in place: `rows` [S] of the flat tokens, `tables` [S, B], `contexts` [S]."""

    rows: torch.Tensor
    tables: torch.Tensor
    contexts: torch.Tensor


class StepLayout:
    """The sequences of one step: `decodes` for a native kernel, or `groups` of them that are attended together by torch; and
    `chunks` attended one by one."""

    def __init__(self, plan: StepPlan, block_tokens: int, dtype: torch.dtype, device: torch.device, *, native: bool = False) -> None:
        self.slots = torch.from_numpy(plan.slots.astype(np.int64)).to(device, non_blocking=True)
        self._block_tokens = block_tokens
        self._dtype = dtype
        self._device = device
        self.decodes = _decodes(plan) if native else None
        everyone = [chunk for chunk in _chunks(plan, block_tokens) if not native or chunk.stop - chunk.start > 1]
        together = [group for group in _by_context(everyone, PADDED_DECODE_TOKENS[device.type]) if len(group) > 1]
        self.groups = [DecodeGroup(number, group, self._rows(group)) for number, group in enumerate(together)]
        grouped = {chunk.start for group in together for chunk in group}
        self.chunks = [chunk for chunk in everyone if chunk.start not in grouped]
        self._masks: dict[tuple[int, int | None], torch.Tensor | None] = {}
        self._slots: dict[tuple[int, int | None], slice | torch.Tensor] = {}
        self._firsts: dict[int | None, torch.Tensor] = {}
        self._decodes: dict[tuple[int, int | None], tuple[torch.Tensor, torch.Tensor]] = {}

    def context_slots(self, chunk: Chunk, window: int | None) -> slice | torch.Tensor:
        """Slots of the positions `[seen_from, context)` of a chunk's sequence: a slice, that is a view, if contiguous."""
        key = (chunk.start, window)
        if key not in self._slots:
            self._slots[key] = self._find_slots(chunk, chunk.seen_from(window))
        return self._slots[key]

    def chunk_mask(self, chunk: Chunk, window: int | None) -> torch.Tensor | None:
        """Additive mask `[n, context - seen_from]`; None where plain causal attention from position 0, or a decode, needs none."""
        key = (chunk.start, window)
        if key not in self._masks:
            self._masks[key] = self._build_mask(chunk, window)
        return self._masks[key]

    def decode_slots(self, group: DecodeGroup, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots `[S, C]` of what each decode of a group sees, and the additive mask `[S, 1, 1, C]` over the padding.

        Padding repeats a sequence's own newest slot, so that nothing of another sequence is ever read.
        """
        key = (group.number, window)
        if key not in self._decodes:
            self._decodes[key] = self._pad_decodes(group.members, window)
        return self._decodes[key]

    def seen_by_decodes(self, window: int | None) -> torch.Tensor:
        """The first position that each of `decodes` sees, int32 `[S]`."""
        if window not in self._firsts:
            assert self.decodes is not None
            contexts = self.decodes.contexts
            self._firsts[window] = torch.zeros_like(contexts) if window is None else (contexts - window).clamp_(min=0)
        return self._firsts[window]

    def _rows(self, group: list[Chunk]) -> torch.Tensor:
        return torch.tensor([chunk.start for chunk in group], dtype=torch.int64, device=self._device)

    def _find_slots(self, chunk: Chunk, lowest: int) -> slice | torch.Tensor:
        if chunk.contiguous:
            base = int(chunk.blocks[0]) * self._block_tokens
            return slice(base + lowest, base + chunk.context)
        positions = np.arange(lowest, chunk.context)
        return torch.from_numpy(self._slot_of(chunk.blocks, positions)).to(self._device)

    def _build_mask(self, chunk: Chunk, window: int | None) -> torch.Tensor | None:
        n = chunk.stop - chunk.start
        lowest = chunk.seen_from(window)
        if n == 1 or (chunk.first == 0 and (window is None or n <= window)):
            return None
        query = torch.arange(chunk.first, chunk.context, device=self._device)[:, None]
        key = torch.arange(lowest, chunk.context, device=self._device)[None, :]
        hidden = key > query if window is None else (key > query) | (key <= query - window)
        return torch.zeros(hidden.shape, dtype=self._dtype, device=self._device).masked_fill_(hidden, -torch.inf)

    def _pad_decodes(self, decodes: list[Chunk], window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        spans = [(chunk.seen_from(window), chunk.context) for chunk in decodes]
        width = max(stop - start for start, stop in spans)
        positions = [np.minimum(np.arange(start, start + width), stop - 1) for start, stop in spans]
        slots = np.stack([self._slot_of(chunk.blocks, where) for chunk, where in zip(decodes, positions, strict=True)])
        lengths = torch.tensor([stop - start for start, stop in spans], device=self._device)
        hidden = torch.arange(width, device=self._device)[None, :] >= lengths[:, None]
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=self._device).masked_fill_(hidden, -torch.inf)
        return torch.from_numpy(slots).to(self._device), mask[:, None, None, :]

    def _slot_of(self, blocks: Int32, positions: Int64) -> Int64:
        slots: Int64 = blocks[positions // self._block_tokens].astype(np.int64) * self._block_tokens + positions % self._block_tokens
        return slots


def _decodes(plan: StepPlan) -> Decodes | None:
    alone = np.flatnonzero(np.diff(plan.starts) == 1)
    if not len(alone):
        return None
    tables, contexts = (torch.from_numpy(array[alone].astype(np.int32)) for array in (plan.block_tables, plan.contexts))
    return Decodes(torch.from_numpy(plan.starts[alone].astype(np.int64)), tables, contexts)


def _chunks(plan: StepPlan, block_tokens: int) -> list[Chunk]:
    """The plan's sequences; rows of its block tables are cut to the blocks that hold the context."""
    used = -(-plan.contexts // block_tokens)
    gaps = np.diff(plan.block_tables, axis=1) != 1
    gaps &= np.arange(1, plan.block_tables.shape[1]) < used[:, None]
    scattered = gaps.any(axis=1)
    starts, contexts = plan.starts.tolist(), plan.contexts.tolist()
    return [
        Chunk(starts[s], starts[s + 1], contexts[s], plan.block_tables[s, : used[s]], not scattered[s])
        for s in range(len(contexts))
        if starts[s + 1] > starts[s]
    ]


def _by_context(everyone: list[Chunk], padded_tokens: int) -> list[list[Chunk]]:
    """Decodes in order of context, split into groups whose padded contexts together stay within `padded_tokens`."""
    groups: list[list[Chunk]] = []
    for chunk in sorted((c for c in everyone if c.stop - c.start == 1), key=lambda c: c.context):
        if not groups or (len(groups[-1]) + 1) * chunk.context > padded_tokens:
            groups.append([])
        groups[-1].append(chunk)
    return groups
