"""Disaggregated prefill, both ways: one kind of device prefills whole prompts, the other decodes."""

from __future__ import annotations

from scheduler.policies.fixed_cut import FixedCut
from scheduler.view import ClusterView, Roles, WaitingView
from shared.types import whole_granules


class DisaggregatedLowHigh(FixedCut):
    """Low-ends prefill, high-ends decode. The last granule is the owner's, as everywhere: it computes the first token."""

    name = "disagg-low-high"

    def _goal(self, waiting: WaitingView) -> int:
        return whole_granules(waiting.num_tokens - 1)


class DisaggregatedHighLow(DisaggregatedLowHigh):
    """High-ends prefill, low-ends decode."""

    name = "disagg-high-low"

    def classify(self, view: ClusterView) -> Roles:
        """With equal workers there is nobody to decode for the others: then all own."""
        roles = super().classify(view)
        return Roles(roles.assistants, roles.owners) if roles.assistants else roles
