"""Ways to break the embedded broker in one place: what it reads, what it does, what it answers, what it delivers."""

from __future__ import annotations

import contextlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from broker.errors import ProtocolError
from broker.packets import Packet
from tests.conformance.wire import Kind

Mutant = Callable[[], AbstractContextManager[None]]
"""Enter the context and the broker is broken; every call makes a new one."""


def around(target: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Mutant:
    """Replace `module:Class.function` by what `make` makes of it."""
    path, _, name = target.rpartition("." if "." in target.partition(":")[2] else ":")

    @contextlib.contextmanager
    def broken() -> Iterator[None]:
        owner = pkgutil.resolve_name(path)
        with mock.patch.object(owner, name, make(getattr(owner, name))):
            yield

    return broken


def instead(target: str, function: Any) -> Mutant:
    """Replace `module:Class.function` by something else."""
    return around(target, lambda original: function)


def all_of(*mutants: Mutant) -> Mutant:
    """Several breaks at once."""

    @contextlib.contextmanager
    def broken() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for mutant in mutants:
                stack.enter_context(mutant())
            yield

    return broken


# What it reads


def connects(change: Callable[[bytearray], bytes | bytearray]) -> Mutant:
    """Change the body of every CONNECT before it is read."""

    def make(receive: Callable[..., Any]) -> Callable[..., Any]:
        def changed(self: Any, first: int, body: memoryview) -> Any:
            return receive(self, first, memoryview(bytes(change(bytearray(body)))))

        return changed

    return around("broker.introduction:Introduction.receive", make)


def connect_flags(change: Callable[[int], int]) -> Mutant:
    """Change the connect flags."""

    def changed(body: bytearray) -> bytearray:
        if len(body) > 7:
            body[7] = change(body[7])
        return body

    return connects(changed)


def bodies(kind: Kind, change: Callable[[int, bytes], tuple[int, bytes]]) -> Mutant:
    """Change first byte and body of packets of one type, after CONNECT, before they are read."""

    def make(decode: Callable[..., Any]) -> Callable[..., Any]:
        def changed(first: int, body: memoryview, version: int) -> Any:
            if first >> 4 == kind:
                first, new = change(first, bytes(body))
                body = memoryview(new)
            return decode(first, body, version)

        return changed

    return around("broker.connection:decode", make)


def any_flags(kind: Kind, flags: int) -> Mutant:
    """The flags of this packet type are not looked at."""
    return bodies(kind, lambda first, body: (kind << 4 | flags, body))


def excuses(kind: Kind, packet: Packet) -> Mutant:
    """A malformed packet of this type is taken for `packet`."""

    def make(decode: Callable[..., Any]) -> Callable[..., Any]:
        def changed(first: int, body: memoryview, version: int) -> Any:
            try:
                return decode(first, body, version)
            except ProtocolError:
                if first >> 4 == kind:
                    return packet
                raise

        return changed

    return around("broker.connection:decode", make)


# What it does


def handles(kind: type[Any], change: Callable[[Any, Any], Any]) -> Mutant:
    """Handle `change(dialogue, packet)` in place of every packet of a type; None is not handled at all."""

    def make(handle: Callable[..., Any]) -> Callable[..., Any]:
        def changed(self: Any, packet: Any) -> Any:
            if isinstance(packet, kind):
                packet = change(self, packet)
            return None if packet is None else handle(self, packet)

        return changed

    return around("broker.dialogue:Dialogue.handle", make)


def ignores(kind: type[Any]) -> Mutant:
    """Packets of this type are not handled."""
    return handles(kind, lambda dialogue, packet: None)


def before(target: str, act: Callable[..., Any]) -> Mutant:
    """Call `act` with the same arguments ahead of a function."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            act(*args, **kwargs)
            return original(*args, **kwargs)

        return changed

    return around(target, make)


def after(target: str, act: Callable[..., Any]) -> Mutant:
    """Call `act` with the same arguments behind a function."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            act(*args, **kwargs)
            return result

        return changed

    return around(target, make)


def given(target: str, change: Callable[..., tuple[Any, ...]]) -> Mutant:
    """Call a function with what `change` makes of its arguments."""
    return around(target, lambda original: lambda *args: original(*change(*args)))


# What it answers


def answers(change: Callable[[Kind, bytes], bytes], *kinds: Kind) -> Mutant:
    """Change every answer of these types, which is all that is sent but PUBLISH; empty is not sent."""

    def make(answer: Callable[..., Any]) -> Callable[..., Any]:
        def changed(self: Any, packet: bytes) -> Any:
            kind = Kind(packet[0] >> 4)
            return answer(self, change(kind, packet) if kind in kinds else packet)

        return changed

    return around("broker.outbox:Outbox.answer", make)


def silent(*kinds: Kind) -> Mutant:
    """These answers are not sent."""
    return answers(lambda kind, packet: b"", *kinds)


def with_byte(at: int, change: Callable[[int], int], *kinds: Kind) -> Mutant:
    """Change one byte of these answers."""

    def changed(kind: Kind, packet: bytes) -> bytes:
        return packet[:at] + bytes((change(packet[at]),)) + packet[at + 1 :]

    return answers(changed, *kinds)


def swapped(kind: Kind) -> Mutant:
    """Every other answer of this type is sent behind the one after it."""

    def fresh() -> AbstractContextManager[None]:
        held: list[bytes] = []

        def changed(_: Kind, packet: bytes) -> bytes:
            if held:
                return packet + held.pop()
            held.append(packet)
            return b""

        return answers(changed, kind)()

    return fresh


# What it delivers


def deliveries(**changes: Callable[[dict[str, Any]], Any]) -> Mutant:
    """Compute arguments of `publish_head` anew for every PUBLISH that is sent: `topic`, `qos`, `dup`, `retain`, ..."""

    def make(publish_head: Callable[..., Any]) -> Callable[..., Any]:
        def changed(topic: bytes, size: int, **fields: Any) -> Any:
            return publish_head(topic, size, **{**fields, **{name: change(fields) for name, change in changes.items()}})

        return changed

    return around("broker.forwarder:publish_head", make)


def forwards(change: Callable[[dict[Any, Any]], dict[Any, Any]]) -> Mutant:
    """Change the properties with which a message is forwarded."""
    return given("broker.application_message:encode_properties", lambda properties: (change(dict(properties)),))
