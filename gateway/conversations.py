"""Stored responses: the conversation that `previous_response_id` leads back over, what each was asked, and their end.

A response's head holds its own input items only; the conversation is rebuilt from the chain, link by link. Every link is checked to
be the caller's, and is kept for one more retention time, so that a conversation that goes on does not expire behind itself.
"""

from __future__ import annotations

from gateway.errors import NotYet
from gateway.fold import Json, Kind
from gateway.limits import MAX_CHAIN
from gateway.service import Found, Gateway
from gateway.tokenizer import Message
from gateway.tools_history import answer_message, stored_messages
from shared.errors import BadRequest, NotFound
from shared.types import Phase

PARAM = "previous_response_id"


class Conversations:
    """Over every pool: a conversation may go on with another model."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def find(self, response_id: str, owner_key: str, param: str = "id") -> Found:
        """A response that can be read: one that was not to be stored is only there for the answer itself. Raises `NotFound`."""
        found = await self._gateway.find(response_id, owner_key, Kind.RESPONSE, param)
        if found.api.stored or found.api.background:
            return found
        raise NotFound(f"The response '{response_id}' was made with 'store': false and cannot be read again.", param, "not_stored")

    async def before(self, previous_response_id: str, owner_key: str) -> list[Message]:
        """The messages up to and with that response's answer, oldest first. Raises `NotFound`, `BadRequest`."""
        links: list[list[Message]] = []
        kept: list[Found] = []
        wanted = previous_response_id
        while wanted:
            if len(links) == MAX_CHAIN:
                message = f"'{PARAM}' leads back over more than {MAX_CHAIN} responses: send the conversation as 'input'."
                raise BadRequest(message, PARAM, "invalid_value")
            found = await self._link(wanted, previous_response_id, owner_key)
            links.append([*stored_messages(found.api.items), await self._answer(found, previous_response_id)])
            kept.append(found)
            wanted = found.api.previous
        for found in kept:
            await found.pool.fabric.retain([found.head.spec.request_id])
        return [message for link in reversed(links) for message in link]

    async def _link(self, wanted: str, first: str, owner_key: str) -> Found:
        try:
            found = await self.find(wanted, owner_key, PARAM)
        except NotFound as error:
            if wanted == first:
                raise
            message = f"'{PARAM}' {first} continues a response that has expired or was deleted: send the conversation as 'input'."
            raise NotFound(message, PARAM, "not_found") from error
        if not found.api.stored:
            raise NotFound(f"The response '{wanted}' was made with 'store': false and cannot be continued.", PARAM, "not_stored")
        return found

    async def _answer(self, found: Found, first: str) -> Message:
        fold = await self._gateway.replay(found)
        if fold.end is None or fold.end.phase is not Phase.FINISHED:
            state = "has not ended" if fold.end is None else f"was {fold.end.phase}"
            message = f"'{PARAM}' {first} cannot be continued: response {fold.public_id} {state}. Wait for it, or send the input again."
            raise BadRequest(message, PARAM, "invalid_value")
        return answer_message(fold)

    def input_items(self, found: Found, *, after: str, limit: int, newest_first: bool) -> Json:
        """What the response itself was asked, one page of it. Raises `BadRequest`."""
        rows = items_of(found)
        rows.reverse() if newest_first else None
        ids = [str(row["id"]) for row in rows]
        if after and after not in ids:
            raise BadRequest(f"'after' is no input item of this response: {after!r}.", "after", "invalid_value")
        start = ids.index(after) + 1 if after else 0
        page = rows[start : start + limit]
        ends = (page[0]["id"], page[-1]["id"]) if page else (None, None)
        return {"object": "list", "data": page, "first_id": ends[0], "last_id": ends[1], "has_more": start + limit < len(rows)}

    async def delete(self, found: Found) -> Json:
        """The response's log goes at once; a running one is cancelled before. Raises `NotYet` while it will not end."""
        fold = await self._gateway.cancel(found)
        if not fold.ended:
            raise NotYet("The response has not ended yet: its cancellation was asked for, delete it again in a moment.")
        await found.pool.fabric.discard_log(fold.request_id)
        return {"id": fold.public_id, "object": "response", "deleted": True}


def items_of(found: Found) -> list[Json]:
    """Input items in order; who came without an id is numbered."""
    request_id = found.head.spec.request_id
    return [{**item, "id": item["id"] or f"msg_{request_id}_{at}"} for at, item in enumerate(found.api.items)]
