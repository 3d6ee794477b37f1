"""What an ask's form means for the model that answers it: its grammar, checked, and how its calls are read. Before acceptance."""

from __future__ import annotations

from dataclasses import replace

from gateway.asks import Ask
from gateway.fold import Kind
from gateway.tokenizer import Encoder
from shared.errors import BadRequest


async def formed(ask: Ask, encoder: Encoder) -> Ask:
    """The ask with its grammar and its call format. Raises `BadRequest`."""
    form = ask.form
    grammar = form.grammar(encoder.call_format)
    if grammar:
        if ask.sampling.ignore_eos:
            raise BadRequest("'ignore_eos' contradicts an answer that ends with its grammar: leave one out.", "ignore_eos", "invalid_value")
        await encoder.check_form(form)
    if form.tools and ask.api.kind is Kind.RESPONSE and ask.api.logprobs:
        raise BadRequest("Log probabilities of an answer with 'tools' are not told: leave one out.", "include", "unsupported_parameter")
    api = replace(ask.api, call_format=encoder.call_format if form.tools else "")
    return replace(ask, api=api, sampling=replace(ask.sampling, grammar=grammar))
