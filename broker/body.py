"""Bodies of messages: a msgpack array of the fields in their order, each checked as its annotation says."""

from __future__ import annotations

import typing
from dataclasses import fields
from typing import Any

import msgpack

from broker.checks import MAX_ITEMS, MAX_TEXT, Check
from broker.errors import WireError
from broker.wire import Buffer


class Body:
    """The body of one kind of message, a dataclass."""

    def __init__(self, kind: type) -> None:
        hints = typing.get_type_hints(kind, include_extras=True)
        self._kind = kind.__name__
        names = [field.name for field in fields(typing.cast(Any, kind))]
        self._checks: list[tuple[str, Check]] = [(name, hints[name].__metadata__[0]) for name in names]

    def pack(self, message: object) -> bytes:
        """The bytes of a message; WireError names the field that is out of its range."""
        return typing.cast(bytes, msgpack.packb(self._checked([getattr(message, name) for name, _ in self._checks])))

    def unpack(self, body: Buffer) -> list[Any]:
        """The values of the fields; WireError for anything that `pack` would not have made."""
        try:
            values = msgpack.unpackb(
                body,
                raw=False,
                strict_map_key=True,
                max_str_len=MAX_TEXT,
                max_bin_len=len(body),
                max_array_len=MAX_ITEMS,
                max_map_len=MAX_ITEMS,
                max_ext_len=0,
            )
        except (ValueError, msgpack.UnpackException) as error:
            raise WireError(f"{self._kind}: body is no msgpack of ours: {error or type(error).__name__}") from None
        count = len(self._checks)
        if type(values) is not list or len(values) != count:
            found = f"{len(values)} fields" if type(values) is list else f"{type(values).__name__}"
            raise WireError(f"{self._kind}: body has {found} in place of an array of {count} fields")
        return self._checked(values)

    def _checked(self, values: list[Any]) -> list[Any]:
        checked = []
        for (name, check), value in zip(self._checks, values, strict=True):
            try:
                checked.append(check(value))
            except (ValueError, OverflowError, WireError) as error:
                raise WireError(f"{self._kind}.{name}: {error}") from None
        return checked
