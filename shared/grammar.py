"""What an answer must match: the words of `SamplingParams.grammar`, and what they mean as a grammar.

A grammar travels as JSON text with a version: `{"v": 1, "kind": ..., ...}`.

| kind          | fields                                            | the answer is                                              |
|---------------|---------------------------------------------------|------------------------------------------------------------|
| `json_object` |                                                   | any JSON object                                            |
| `json_schema` | `schema`, `strict`                                | JSON that the schema accepts                               |
| `regex`       | `regex`                                           | a text that the whole regular expression matches           |
| `lark`        | `lark`                                            | what the rule `start` derives                              |
| `tools`       | `format`, `tools`, `calls`, `required`, `content` | calls of these tools, and text as `required` leaves it free |

`to_lark` says in one language, the Lark dialect of `llguidance`, what each of them means. Pure: the gateway checks a grammar with it
before it accepts a request, a worker compiles it, and neither needs more than the text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

VERSION = 1
Schema = Mapping[str, Any] | bool
WHITESPACE = r"(\n {0,40}| )"
"""Between JSON's tokens: nothing, a space, or a line break with its indentation. Bounded, so that no model fills its answer with it."""


class GrammarError(ValueError):
    """The text is no grammar of this version."""


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How a model writes tool calls: `begin {"name_key": NAME, "arguments_key": ARGUMENTS} end`, `between` two of them."""

    begin: str
    end: str
    between: str
    name_key: str
    arguments_key: str

    def head(self, name: str) -> str:
        """A call up to its arguments."""
        return f'{self.begin}{{"{self.name_key}": {json.dumps(name, ensure_ascii=False)}, "{self.arguments_key}": '

    @property
    def tail(self) -> str:
        """A call behind its arguments."""
        return "}" + self.end

    @property
    def trigger(self) -> str:
        """What tells a call from text, wherever it stands; empty where only an answer that begins with a call has any."""
        return self.begin.strip()


CALL_FORMATS = {
    "hermes": CallFormat("<tool_call>\n", "\n</tool_call>", "\n", "name", "arguments"),
    "llama3": CallFormat("", "", "; ", "name", "parameters"),
    "generic": CallFormat("", "", "\n", "tool", "arguments"),
}
"""`hermes`: Hermes and Qwen. `llama3`: the JSON calls of Llama 3.1 and later. `generic`: ours, for a template that knows no tools."""


@dataclass(frozen=True, slots=True)
class ToolRule:
    """One tool: its name, and what its arguments must match."""

    name: str
    parameters: Schema
    strict: bool = False


def json_object() -> str:
    return _text("json_object")


def json_schema(schema: Schema, *, strict: bool) -> str:
    """Without `strict`, keywords that cannot be enforced are ignored; with it, they are refused when the grammar is checked."""
    return _text("json_schema", schema=schema, strict=strict)


def regex(pattern: str) -> str:
    return _text("regex", regex=pattern)


def lark(rules: str) -> str:
    return _text("lark", lark=rules)


def tools(call_format: str, rules: Sequence[ToolRule], *, calls: int, required: bool, content: str = "") -> str:
    """At most `calls` calls. Not `required`: text may stand before them and instead of them; `content` is that text's own grammar."""
    return _text("tools", format=call_format, tools=[asdict(rule) for rule in rules], calls=calls, required=required, content=content)


def to_lark(grammar: str) -> str:
    """The grammar in `llguidance`'s Lark. Raises `GrammarError`."""
    try:
        fields = json.loads(grammar)
        if fields["v"] != VERSION:
            raise GrammarError(f"a grammar of version {fields['v']}; this is version {VERSION}")
        return f"start: root\n{_KINDS[fields['kind']](fields)}"
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise error if isinstance(error, GrammarError) else GrammarError(f"not a grammar: {error!r}") from error


def _text(kind: str, **fields: object) -> str:
    return json.dumps({"v": VERSION, "kind": kind, **fields}, separators=(",", ":"))


def _json_rule(name: str, schema: Schema, *, strict: bool) -> str:
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    return f"{name}: %json {json.dumps({**schema, 'x-guidance': {'whitespace_pattern': WHITESPACE, 'lenient': not strict}})}\n"


def _regex_rule(fields: Mapping[str, Any]) -> str:
    return "root: /" + _escape_slashes(fields["regex"]) + "/\n"


def _escape_slashes(pattern: str) -> str:
    """A slash ends a regular expression in Lark; one that is escaped already stays as it is."""
    pieces, at = list[str](), 0
    while at < len(pattern):
        step = 2 if pattern[at] == "\\" else 1
        pieces.append("\\/" if pattern[at] == "/" else pattern[at : at + step])
        at += step
    return "".join(pieces).replace("\n", "\\n")


def _lark_rule(fields: Mapping[str, Any]) -> str:
    """The client's own `start` becomes our root."""
    return f"root: %lark {{\n{fields['lark']}\n}}\n"


def _tools_rule(fields: Mapping[str, Any]) -> str:
    shape = CALL_FORMATS[fields["format"]]
    rules = [ToolRule(**tool) for tool in fields["tools"]]
    more = max(0, fields["calls"] - 1)
    calls, body = f"call{_more_calls(shape, more)}", _call_rules(shape, rules)
    if fields["required"]:
        return f"root: {calls}\n{body}"
    if fields["content"]:
        return f"root: {calls} | content\n{body}{_content_rule(fields['content'])}"
    return (_tagged_or_text if shape.trigger else _bare_or_text)(shape, more) + body


def _content_rule(content: str) -> str:
    fields = json.loads(content)
    if fields["kind"] not in ("json_object", "json_schema"):
        raise GrammarError("the text beside tool calls is JSON, or free")
    return _KINDS[fields["kind"]](fields).replace("root:", "content:", 1)


def _call_rules(shape: CallFormat, rules: Sequence[ToolRule]) -> str:
    """`call` derives one call of one of the tools, `rest` what follows its tag."""
    heads = [shape.head(rule.name).removeprefix(shape.trigger) for rule in rules]
    calls = [f"rest_{at}: {_quoted(head)} arguments_{at} {_quoted(shape.tail)}\n" for at, head in enumerate(heads)]
    arguments = [_json_rule(f"arguments_{at}", rule.parameters, strict=rule.strict) for at, rule in enumerate(rules)]
    options = " | ".join(f"rest_{at}" for at in range(len(rules)))
    tag = f"{_quoted(shape.trigger)} " if shape.trigger else ""
    return "".join([f"call: {tag}rest\nrest: {options}\n", *calls, *arguments])


def _more_calls(shape: CallFormat, more: int) -> str:
    return f" ({_quoted(shape.between)} call){{0,{more}}}" if more else ""


def _tagged_or_text(shape: CallFormat, more: int) -> str:
    """Text has no tag in it: the lazy lexeme ends with the first."""
    return f"root: TEXT | open rest{_more_calls(shape, more)}\nTEXT: /{_ANY}/\nopen[lazy]: TEXT {_quoted(shape.trigger)}\n"


def _bare_or_text(shape: CallFormat, more: int) -> str:
    """An answer that begins with a brace is a call."""
    return f"root: call{_more_calls(shape, more)} | TEXT\nTEXT: /([^{{ \\t\\r\\n]{_ANY})?/\n"


_ANY = r"(.|\n)*"


def _quoted(text: str) -> str:
    return json.dumps(text)


_KINDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "json_object": lambda fields: _json_rule("root", {"type": "object"}, strict=True),
    "json_schema": lambda fields: _json_rule("root", fields["schema"], strict=fields["strict"]),
    "regex": _regex_rule,
    "lark": _lark_rule,
    "tools": _tools_rule,
}
