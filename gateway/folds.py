"""Which fold a log needs: its head says."""

from __future__ import annotations

from gateway.chat import ChatFold
from gateway.completions import CompletionFold
from gateway.fold import ApiHead, Fold, Kind
from gateway.responses import ResponseFold
from shared.fabric import LogHead

FOLDS: dict[Kind, type[Fold]] = {Kind.CHAT: ChatFold, Kind.COMPLETION: CompletionFold, Kind.RESPONSE: ResponseFold}


def fold_of(head: LogHead) -> Fold:
    """The fold of this log, at its start."""
    api = ApiHead.from_json(head.api)
    return FOLDS[api.kind](head, api)
