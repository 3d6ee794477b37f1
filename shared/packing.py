"""From type hints to converters: how a frozen dataclass or a named tuple becomes what msgpack knows, and back.

It is the array of its fields in order. A union of dataclasses is `[tag, fields...]`; everything else is told
apart by its msgpack type alone, strictly: a bool is no int, an int is no float. Converters are made once per type.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, NewType, Union, get_args, get_origin, get_type_hints

MAX_DEPTH = 16
"""Of the free-form values in a `dict[str, object]`."""

SCALARS: tuple[type, ...] = (bool, int, str, bytes, float)


class Misfit(ValueError):
    """The data does not have the shape of the type."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """Both directions of one type. `pack` is None where msgpack takes the value as it is."""

    pack: Callable[[Any], Any] | None
    unpack: Callable[[Any], Any]
    scalar: type = Misfit
    """What it takes as it is (a scalar, or what is left out): no call is needed for it. (Nothing on a wire is a `Misfit`.)"""


class Shapes:
    """The shapes of a family of dataclasses; `tags` name those that a union can hold."""

    def __init__(self, tags: Mapping[int, type]) -> None:
        self._tags = {kind: tag for tag, kind in tags.items()}
        self._known: dict[Any, Shape] = {}

    def of(self, hint: Any) -> Shape:
        """The shape of a type hint; raises `TypeError` for one that cannot go on a wire."""
        if hint not in self._known:
            self._known[hint] = self._make(hint)
        return self._known[hint]

    def _make(self, hint: Any) -> Shape:
        if isinstance(hint, NewType):
            return self.of(hint.__supertype__)
        if hint in SCALARS:
            return Shape(float if hint is float else None, _exactly(hint), hint)
        if get_origin(hint) in (Union, UnionType):
            return self._union(get_args(hint))
        if get_origin(hint) is tuple and get_args(hint)[1:] == (...,):
            return self._tuple(get_args(hint)[0])
        if get_origin(hint) is tuple:
            return self._row(get_args(hint))
        if hint == dict[str, object]:
            return Shape(_plain_dict, _plain_dict)
        if isinstance(hint, type) and issubclass(hint, Enum):
            return _enum(hint)
        if isinstance(hint, type) and fields_of(hint):
            return self._fielded(hint)
        raise TypeError(f"{hint} has no shape on the wire")

    def _tuple(self, item_hint: Any) -> Shape:
        while isinstance(item_hint, NewType):
            item_hint = item_hint.__supertype__
        item = self.of(item_hint)
        pack = None if item.pack is None else _each(item.pack)
        return Shape(pack, _scalars(item_hint) if item_hint in SCALARS else _items(item.unpack))

    def _row(self, hints: tuple[Any, ...]) -> Shape:
        """A tuple of fixed length, like `(id, logprob)`."""
        shapes = [self.of(hint) for hint in hints]

        def pack(value: Any) -> list[Any]:
            return [item if shape.pack is None else shape.pack(item) for shape, item in zip(shapes, value, strict=True)]

        def unpack(raw: Any) -> Any:
            if type(raw) is not tuple or len(raw) != len(shapes):
                raise Misfit(f"an array of {len(shapes)} expected")
            return tuple(shape.unpack(item) for shape, item in zip(shapes, raw, strict=True))

        return Shape(pack, unpack)

    def _union(self, members: tuple[Any, ...]) -> Shape:
        others = tuple(member for member in members if member is not NoneType)
        shape = self.of(others[0]) if len(others) == 1 else self._tagged(others)
        return shape if len(others) == len(members) else _optional(shape)

    def _tagged(self, members: tuple[Any, ...]) -> Shape:
        tags = {kind: self._tags[kind] for kind in members}
        kinds = {tag: kind for kind, tag in tags.items()}

        def pack(value: Any) -> list[Any]:
            return [tags[type(value)], *self._fields(value)]

        def unpack(raw: Any) -> Any:
            if type(raw) is not tuple or not raw or type(raw[0]) is not int or raw[0] not in kinds:
                raise Misfit(f"one of the tags {sorted(kinds)} expected")
            return self.of(kinds[raw[0]]).unpack(raw[1:])

        return Shape(pack, unpack)

    def _fields(self, value: Any) -> list[Any]:
        pack = self.of(type(value)).pack
        fields: list[Any] = pack(value) if pack else []
        return fields

    def _fielded(self, kind: type) -> Shape:
        hints, fields = get_type_hints(kind), fields_of(kind)
        shapes = [self.of(hints[name]) for name in fields]
        packers = [(at, shape.pack) for at, shape in enumerate(shapes) if shape.pack is not None]
        return Shape(_to_fields(_reader(kind, list(fields)), packers), _from_fields(kind, shapes, sum(fields.values())))


def fields_of(kind: type) -> dict[str, bool]:
    """The fields of a dataclass or a named tuple in order, and whether each must be given; nothing for any other type."""
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        return {field.name: field.default is missing and field.default_factory is missing for field in dataclasses.fields(kind)}
    defaults = getattr(kind, "_field_defaults", {})
    return {name: name not in defaults for name in getattr(kind, "_fields", ())}


def _reader(kind: type, names: list[str]) -> Callable[[Any], Iterable[Any]]:
    """The values of a message's fields in order."""
    if issubclass(kind, tuple):
        return iter
    read = attrgetter(*names)
    return (lambda value: (read(value),)) if len(names) == 1 else read


def _to_fields(read: Callable[[Any], Iterable[Any]], packers: list[tuple[int, Callable[[Any], Any]]]) -> Callable[[Any], list[Any]]:
    def pack(value: Any) -> list[Any]:
        fields = list(read(value))
        for at, pack_field in packers:
            fields[at] = pack_field(fields[at])
        return fields

    return pack


def _from_fields(kind: type, shapes: list[Shape], required: int) -> Callable[[Any], Any]:
    """A writer older than us leaves trailing fields out, a newer one adds some: defaults fill in, extras are ignored."""
    fields = [(shape.scalar, shape.unpack) for shape in shapes]

    def unpack(raw: Any) -> Any:
        if type(raw) is not tuple or len(raw) < required:
            raise Misfit(f"{kind.__name__} needs an array of at least {required} fields")
        return kind(
            *[item if type(item) is scalar else unpack_item(item) for (scalar, unpack_item), item in zip(fields, raw, strict=False)]
        )

    return unpack


def _exactly(kind: type) -> Callable[[Any], Any]:
    def unpack(raw: Any) -> Any:
        if type(raw) is not kind:
            raise Misfit(f"{kind.__name__} expected, not {type(raw).__name__}")
        return raw

    return unpack


def _scalars(kind: type) -> Callable[[Any], Any]:
    """A prompt has many thousand items: one pass in C instead of a call for each. A token's entry has one."""
    only = {kind}

    def unpack(raw: Any) -> Any:
        if type(raw) is tuple and (type(raw[0]) is kind if len(raw) == 1 else set(map(type, raw)) <= only):
            return raw
        raise Misfit(f"an array of {kind.__name__} expected")

    return unpack


def _items(unpack_item: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def unpack(raw: Any) -> Any:
        if type(raw) is not tuple:
            raise Misfit(f"an array expected, not {type(raw).__name__}")
        return tuple(map(unpack_item, raw)) if raw else raw

    return unpack


def _each(pack_item: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: [pack_item(item) for item in value]


def _optional(shape: Shape) -> Shape:
    inner = shape.pack
    pack = None if inner is None else (lambda value: None if value is None else inner(value))
    return Shape(pack, lambda raw: None if raw is None else shape.unpack(raw), NoneType)


def _enum(kind: type[Enum]) -> Shape:
    members = {member.value: member for member in kind}
    value_type = type(next(iter(members)))

    def unpack(raw: Any) -> Any:
        if type(raw) is not value_type or raw not in members:
            raise Misfit(f"no {kind.__name__}")
        return members[raw]

    return Shape(attrgetter("value"), unpack)


def _plain_dict(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise Misfit(f"a map expected, not {type(value).__name__}")
    plain: dict[str, Any] = _plain(value, 0)
    return plain


def _plain(value: Any, depth: int) -> Any:
    """JSON's values and bytes; sequences become tuples."""
    kind = type(value)
    if value is None or kind in SCALARS:
        return value
    if depth >= MAX_DEPTH:
        raise Misfit(f"nested deeper than {MAX_DEPTH}")
    if kind is dict:
        if not set(map(type, value)) <= {str}:
            raise Misfit("a map's keys must be strings")
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if kind is tuple or kind is list:
        return tuple(_plain(item, depth + 1) for item in value)
    raise Misfit(f"{kind.__name__} cannot go on the wire")
