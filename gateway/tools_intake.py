"""What an ask's form means for the model that answers it: its grammar, checked, and how its calls are read. Before acceptance."""

from __future__ import annotations

from dataclasses import replace

from gateway.asks import Ask
from gateway.tokenizer import Encoder
from shared.errors import BadRequest


async def formed(ask: Ask, encoder: Encoder) -> tuple[Ask, str]:
    """The ask with its call format, and its grammar. Raises `BadRequest`."""
    form = ask.form
    grammar = form.grammar(encoder.call_format)
    if grammar:
        if ask.ignore_eos:
            raise BadRequest("'ignore_eos' contradicts an answer that ends with its grammar: leave one out.", "ignore_eos", "invalid_value")
        await encoder.check_form(form)
    return replace(ask, api=replace(ask.api, call_format=encoder.call_format if form.tools else "")), grammar
