"""Which fold a log needs: its head says."""

from __future__ import annotations

from gateway.chat import ChatFold
from gateway.completions import CompletionFold
from gateway.fold import ApiHead, Fold, Kind
from gateway.logprobs import TokenNames
from gateway.responses import ResponseFold
from gateway.tools_chat import ToolChatFold
from gateway.tools_responses import ToolResponseFold
from shared.fabric import LogHead

FOLDS: dict[Kind, type[Fold]] = {Kind.CHAT: ChatFold, Kind.COMPLETION: CompletionFold, Kind.RESPONSE: ResponseFold}
TOOL_FOLDS: dict[Kind, type[Fold]] = {Kind.CHAT: ToolChatFold, Kind.RESPONSE: ToolResponseFold}


def fold_of(head: LogHead, names: TokenNames) -> Fold:
    """The fold of this log, at its start; `names` are of the model's tokens."""
    api = ApiHead.from_json(head.api)
    return (TOOL_FOLDS if api.call_format else FOLDS)[api.kind](head, api, names)
