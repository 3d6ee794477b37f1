"""`response_format` of chat completions and `text.format` of responses: what the answer's text must be."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from gateway.tools import Description, Name, Shape
from shared import grammar

Json = dict[str, Any]
FormatType = Literal["text", "json_object", "json_schema"]


class JsonSchema(Shape):
    name: Name
    description: Description = None
    schema_: Annotated[Json, Field(alias="schema")]
    strict: StrictBool | None = None


class ResponseFormat(Shape):
    """Chat's: the schema stands in an object of its own."""

    type: FormatType
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError("response_format", "'json_schema' is needed with type 'json_schema', and only there")
        return self

    def grammar(self) -> str:
        schema = self.json_schema
        return _grammar(self.type, schema.schema_, schema.strict) if schema else _grammar(self.type, None, None)


class TextFormat(Shape):
    """Responses': everything beside the type."""

    type: FormatType
    name: Name | None = None
    description: Description = None
    schema_: Annotated[Json | None, Field(alias="schema")] = None
    strict: StrictBool | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> TextFormat:
        if (self.type == "json_schema") != (self.schema_ is not None and self.name is not None):
            raise PydanticCustomError("text_format", "'name' and 'schema' are needed with type 'json_schema', and only there")
        return self

    def grammar(self) -> str:
        return _grammar(self.type, self.schema_, self.strict)


class TextOptions(Shape):
    """`text` of `/v1/responses`."""

    format: TextFormat | None = None
    verbosity: Annotated[StrictStr | None, Field(pattern="^medium$")] = None


def _grammar(kind: FormatType, schema: Json | None, strict: bool | None) -> str:
    if schema is not None:
        return grammar.json_schema(schema, strict=bool(strict))
    return grammar.json_object() if kind == "json_object" else ""
