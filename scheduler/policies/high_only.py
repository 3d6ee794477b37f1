"""The baseline without head starts: fast workers take whole prompts, slow ones idle."""

from __future__ import annotations

from scheduler.policies.base import Assist
from scheduler.policies.headstart import Headstart
from scheduler.view import ClusterView, Roles, WaitingView, WorkerView


class HighOnly(Headstart):
    name = "high-only"

    def classify(self, view: ClusterView) -> Roles:
        return Roles(owners=super().classify(view).owners)

    def cut(self, view: ClusterView, worker: WorkerView, waiting: WaitingView) -> int:
        return 0

    def assist(self, view: ClusterView, worker: WorkerView) -> Assist | None:
        return None
