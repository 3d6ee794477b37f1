"""Small JSON schemas whose every value is bounded, so that any model's answer ends."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Json = dict[str, Any]


def schemas() -> st.SearchStrategy[Json]:
    """An object of up to three properties, each a leaf, an array or an object of leaves."""
    return objects(st.one_of(leaves(), arrays(leaves()), objects(leaves())))


def leaves() -> st.SearchStrategy[Json]:
    return st.one_of(
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"const": "fixed"}, {"type": "string", "pattern": "^[a-f]{1,4}$"}]),
        st.integers(0, 6).map(lambda length: {"type": "string", "maxLength": length}),
        st.tuples(st.integers(-50, 0), st.integers(1, 99)).map(lambda ends: {"type": "integer", "minimum": ends[0], "maximum": ends[1]}),
        st.lists(st.sampled_from(["a", "bé", 'say "hi"', 1, None]), min_size=1, max_size=3, unique=True).map(lambda some: {"enum": some}),
        st.just({"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0, "maximum": 9}]}),
    )


def arrays(of: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.tuples(of, st.integers(0, 3)).map(lambda drawn: {"type": "array", "items": drawn[0], "maxItems": drawn[1]})


def objects(of: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.dictionaries(st.sampled_from(["x", "y z", "ü"]), st.tuples(of, st.booleans()), min_size=1).map(_object)


def _object(properties: dict[str, tuple[Json, bool]]) -> Json:
    return {
        "type": "object",
        "properties": {name: schema for name, (schema, _) in properties.items()},
        "required": [name for name, (_, required) in properties.items() if required],
        "additionalProperties": False,
    }
