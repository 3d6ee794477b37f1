"""Tool calls out of text: the same however the text was cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tools_parse import Arguments, CallEnd, CallStart, Content, Piece, ToolParser
from shared.grammar import CALL_FORMATS

HERMES, LLAMA, GENERIC = (CALL_FORMATS[name] for name in ("hermes", "llama3", "generic"))
ONE = '<tool_call>\n{"name": "find", "arguments": {"q": "a } b", "n": [1, {"x": "\\""}]}}\n</tool_call>'
TWO = ONE + '\n<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>'

Told = tuple[str, list[tuple[str, str]]]
"""Content, and each call's name and arguments."""


def pieces_of(shape: object, cuts: list[str]) -> list[Piece]:
    parser = ToolParser(shape)  # type: ignore[arg-type]
    return [piece for cut in cuts for piece in parser.feed(cut)] + parser.finish()


def told(pieces: list[Piece]) -> Told:
    content, calls, open_calls = "", list[tuple[str, str]](), 0
    for piece in pieces:
        match piece:
            case Content(text):
                content += text
            case CallStart(index, name):
                assert index == len(calls)
                calls.append((name, ""))
                open_calls += 1
            case Arguments(index, text):
                assert index == len(calls) - 1
                assert open_calls == 1
                calls[index] = (calls[index][0], calls[index][1] + text)
            case CallEnd(index):
                assert index == len(calls) - 1
                open_calls -= 1
    assert open_calls == 0
    return content, calls


CASES: list[tuple[object, str, Told]] = [
    (HERMES, "Just text, with a < sign and {braces}.", ("Just text, with a < sign and {braces}.", [])),
    (HERMES, ONE, ("", [("find", '{"q": "a } b", "n": [1, {"x": "\\""}]}')])),
    (HERMES, "Let me see.\n" + TWO, ("Let me see.\n", [("find", '{"q": "a } b", "n": [1, {"x": "\\""}]}'), ("stop", "{}")])),
    (HERMES, ONE + "\nDone.", ("Done.", [("find", '{"q": "a } b", "n": [1, {"x": "\\""}]}')])),
    (HERMES, "<tool_call> not JSON </tool_call>", ("<tool_call> not JSON </tool_call>", [])),
    (HERMES, '<tool_call>{"name":"f","arguments":"{\\"a\\": 1}"}</tool_call>', ("", [("f", '{"a": 1}')])),
    (HERMES, '<tool_call>\n{"name": "f", "arguments": {"a": "cut', ("", [("f", '{"a": "cut')])),
    (HERMES, "ends in <tool_", ("ends in <tool_", [])),
    (LLAMA, '{"name": "f", "parameters": {"a": 1}}', ("", [("f", '{"a": 1}')])),
    (LLAMA, '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"b": 2}}', ("", [("f", "{}"), ("g", '{"b": 2}')])),
    (LLAMA, '{"answer": 42}', ('{"answer": 42}', [])),
    (LLAMA, "No call.", ("No call.", [])),
    (GENERIC, '{"tool": "f", "arguments": {"a": 1}}\n{"tool": "g", "arguments": {}}', ("", [("f", '{"a": 1}'), ("g", "{}")])),
    (GENERIC, "", ("", [])),
]


@pytest.mark.parametrize(("shape", "text", "expected"), CASES)
def test_whole(shape: object, text: str, expected: Told) -> None:
    assert told(pieces_of(shape, [text])) == expected


@settings(max_examples=60, deadline=None)
@given(case=st.sampled_from(CASES), data=st.data())
def test_however_it_is_cut(case: tuple[object, str, Told], data: st.DataObject) -> None:
    shape, text, expected = case
    marks = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    cuts = [text[start:stop] for start, stop in zip([0, *marks], [*marks, len(text)], strict=True)]
    assert told(pieces_of(shape, cuts)) == expected


VALUES = st.none() | st.text(max_size=8) | st.integers() | st.lists(st.text(max_size=4), max_size=2)


@settings(max_examples=40, deadline=None)
@given(name=st.text(min_size=1, max_size=20), arguments=st.dictionaries(st.text(max_size=5), VALUES, max_size=3))
@pytest.mark.parametrize("shape", [HERMES, LLAMA, GENERIC])
def test_what_a_grammar_lets_through_is_read_back(shape: object, name: str, arguments: dict[str, object]) -> None:
    text = shape.head(name) + json.dumps(arguments) + shape.tail  # type: ignore[attr-defined]
    assert told(pieces_of(shape, list(text))) == ("", [(name, json.dumps(arguments))])


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet='<tool_cal>/{}"name:, \n\\', max_size=60))
@pytest.mark.parametrize("shape", [HERMES, LLAMA, GENERIC])
def test_nothing_is_lost_of_a_text_without_calls(shape: object, text: str) -> None:
    content, calls = told(pieces_of(shape, list(text)))
    assert calls or content == text


def test_arguments_stream_as_they_come() -> None:
    parser = ToolParser(HERMES)
    assert parser.feed('Hm. <tool_call>\n{"name": "f", "argu') == [Content("Hm. ")]
    assert parser.feed('ments": {"a"') == [CallStart(0, "f"), Arguments(0, '{"a"')]
    assert parser.feed(": 1}") == [Arguments(0, ": 1}"), CallEnd(0)]
    assert parser.feed("}\n</tool_call>") == []
    assert parser.finish() == []
