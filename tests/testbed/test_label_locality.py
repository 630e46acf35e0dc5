"""In the U-shape no label leaves its device: searched for in everything that crossed and everything that was written.

Training texts carry canary words. Every captured payload is put together, parsed and decompressed, every file outside
of the agents is read, and both are searched for the words as text and for their target tokens as integers of 2, 4 and
8 bytes in either order and as varints. The same search must find them in the standard shape, which sends labels.
"""

from __future__ import annotations

import asyncio
import csv
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import lz4.block
import pytest
import zstandard
from transformers import AutoTokenizer

from broker import messages, wire
from broker.broker_config import BrokerConfig
from broker.errors import WireError
from broker.memory import MemoryHub
from broker.server import Broker
from broker.topics import Topic
from splitcom.errors import CodecError
from splitcom.frame import Keyframe, Layout, parse
from testbed.progress import Progress
from testbed.runner import prepare, run_processes
from testbed.scenario import Scenario
from tests.runs import run_tiny, tiny_scenario

CANARIES = ("zqxvkwjbq", "wvuqzxjkk", "kjxqzvwqb")
CAPTURED = list[tuple[str, bytes]]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """E2E's files, with the canary words in the training texts alone."""
    folder = tmp_path / "texts"
    folder.mkdir()
    sets = {"trainset": 24, "devset": 4, "testset_w_refs": 4}
    for number, (name, count) in enumerate(sets.items()):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("mr", "ref"))
            for i in range(count):
                secret = f" {CANARIES[i % 3]} {CANARIES[(i + 1) % 3]}" if name == "trainset" else ""
                rows.writerow((f"name[Hut {number} {i}], near[lake {i % 5}]", f"Hut {i} is by the lake{secret} {i}."))
    return folder


def scenario_of(base: Path, texts: Path, shape: str, **layer: Any) -> Scenario:
    names = {"standard": ["all-gates"], "u": ["all-gates", "u-shape"]}[shape]
    data = {"set": "e2e", "path": str(texts), "train": 24, "validation": 4, "test": 4}
    # A short outlook: the untrained base cannot know the words, and nothing that it generates may look like them.
    return tiny_scenario(base, *names, clients=2, data=data, **layer)


def needles(base: Path) -> dict[str, bytes]:
    """What to search for, by the name of its form."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    found: dict[str, bytes] = {}
    for word in CANARIES:
        ids = tokenizer.encode(" " + word, add_special_tokens=False)
        assert len(ids) >= 4, "too few tokens to be told from chance"
        found[f"{word} text"] = word.encode()
        for width, kind in ((2, "H"), (4, "I"), (8, "Q")):
            for order in "<>":
                found[f"{word} {order}int{8 * width}"] = struct.pack(f"{order}{len(ids)}{kind}", *ids)
        found[f"{word} varint"] = b"".join(varint(i) for i in ids)
        found[f"{word} msgpack"] = b"".join(packed_integer(i) for i in ids)
    return found


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def packed_integer(value: int) -> bytes:
    return bytes([value]) if value < 128 else b"\xcc" + bytes([value]) if value < 256 else b"\xcd" + value.to_bytes(2)


def contents(captured: CAPTURED, scenario: Scenario) -> Iterator[bytes]:
    """Everything that the payloads hold: as captured, put together, parsed, and decompressed."""
    layouts = [
        Layout(name, config.codec, config.lossless, 32)
        for name, config in scenario.streams.of(scenario.model.shape).items()
    ]
    parts: dict[tuple[str, int, int], dict[int, wire.Envelope]] = {}
    for topic, payload in captured:
        yield payload
        envelope = wire.parse(payload)
        key = (topic, envelope.boot, envelope.message_id)
        parts.setdefault(key, {})[envelope.index] = envelope
    assert parts
    for (topic, _, _), chunks in parts.items():
        first = next(iter(chunks.values()))
        assert len(chunks) == first.count, "a message was not captured whole"
        body = b"".join(bytes(chunks[i].chunk) for i in range(first.count))
        yield body
        message = messages.decode(first.message_type, body)
        assert message.channel == Topic.parse(topic).channel
        for value in (getattr(message, name) for name in message.__dataclass_fields__):
            if isinstance(value, bytes):
                yield from opened(value, layouts)
            else:
                yield repr(value).encode()


def opened(blob: bytes, layouts: list[Layout]) -> Iterator[bytes]:
    """A blob, and what is in it: the bodies of a packet, or what any of our lossless stages makes of any rest of it."""
    yield blob
    for layout in layouts:
        try:
            frames, _ = parse(layout, blob)
        except CodecError:
            continue
        yield b"".join(bytes(frame.body) for frame in frames if isinstance(frame, Keyframe))
    at = blob.find(b"\x28\xb5\x2f\xfd")  # a zstd frame, as in an adapter
    if at >= 0:
        yield zstandard.ZstdDecompressor().decompressobj().decompress(blob[at:])
    try:
        yield lz4.block.decompress(blob[8:-4], uncompressed_size=2**20)
    except lz4.block.LZ4BlockError:
        pass


def files_outside_agents(directory: Path) -> Iterator[bytes]:
    """Every file of a run but those of the agents themselves."""
    paths = [
        path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(("agent", "ledger-agent"))
    ]
    assert {"metrics.jsonl", "summary.json", "outputs.json", "ledger-server.jsonl"} <= {path.name for path in paths}
    for path in paths:
        yield path.read_bytes()


def search(haystacks: Iterator[bytes], wanted: dict[str, bytes]) -> set[str]:
    """The needles that are in any of the haystacks."""
    whole = list(haystacks)
    return {name for name, needle in wanted.items() if any(needle in content for content in whole)}


def check(shape: str, crossed: set[str]) -> None:
    """Nothing crossed in the U-shape; in the standard shape the target tokens did, as the wire format says."""
    if shape == "u":
        assert crossed == set()
    else:
        assert {f"{word} <int16" for word in CANARIES} <= crossed
        assert not any("text" in name or "64" in name for name in crossed)


class CapturingHub(MemoryHub):
    """A memory hub that keeps what is published."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario.channel)
        self.captured: CAPTURED = []

    def publish(self, topic: str, payload: bytes, retain: bool, acknowledge: Callable[[], None]) -> None:
        self.captured.append((topic, payload))
        super().publish(topic, payload, retain, acknowledge)


def test_the_search_finds_every_form(tiny_base: Path) -> None:
    wanted = needles(tiny_base)
    assert len(wanted) == len(CANARIES) * 9
    for name, needle in wanted.items():
        assert name in search(iter([b"before" + needle + b"behind"]), wanted)
    assert search(iter([bytes(range(256)) * 40]), wanted) == set()


def test_a_stream_that_held_them_would_be_opened(tiny_base: Path, texts: Path) -> None:
    """The search looks through the lossless stage: label bytes in a compressed body are found."""
    import numpy as np

    from splitcom.stream import StreamEncoder

    scenario = scenario_of(tiny_base, texts, "u")
    wanted = needles(tiny_base)
    secret = np.frombuffer(wanted[f"{CANARIES[0]} text"], np.int8)
    tensor = np.random.default_rng(0).integers(-4, 5, (64, 32)).astype(np.float32)
    tensor[:, 31] = 127  # with this peak the INT8 codec keeps whole numbers as they are
    tensor[9, : len(secret)] = secret
    encoder = StreamEncoder("activation_up", scenario.streams.activation_up, 32, 0)
    packet = encoder.encode(0, [1], [tensor]).data
    layout = Layout("activation_up", "int8", "zstd", 32)
    assert secret.tobytes() not in packet
    assert any(secret.tobytes() in content for content in opened(packet, [layout]))


@pytest.mark.parametrize("shape", ["standard", "u"])
def test_labels_leave_the_device_in_the_standard_shape_only(
    tiny_base: Path, tmp_path: Path, texts: Path, shape: str
) -> None:
    scenario = scenario_of(tiny_base, texts, shape, training={"epochs": 2})
    hub = CapturingHub(scenario)
    run_tiny(scenario, tmp_path / "run", hub)
    wanted = needles(tiny_base)
    crossed = search(contents(hub.captured, scenario), wanted)
    written = search(files_outside_agents(tmp_path / "run"), wanted)
    assert written == set()
    check(shape, crossed)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["standard", "u"])
def test_nor_do_they_with_real_processes_and_a_real_broker(
    tiny_base: Path, tmp_path: Path, texts: Path, shape: str
) -> None:
    captured: CAPTURED = []
    directory = tmp_path / "run"

    async def tap(host: str, port: int, ready: asyncio.Event) -> None:
        async with aiomqtt.Client(host, port, identifier="tap") as client:
            await client.subscribe("#", qos=1)
            ready.set()
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                captured.append((str(message.topic), message.payload))

    async def carry_out() -> None:
        async with Broker(BrokerConfig(port=0)) as broker:
            host, port = broker.address
            ready = asyncio.Event()
            tapping = asyncio.create_task(tap(host, port, ready))
            await ready.wait()
            scenario = scenario_of(tiny_base, texts, shape, broker=f"mqtt://{host}:{port}")
            quiet = Progress("test")
            await run_processes(prepare(scenario, directory, quiet), directory, quiet)
            tapping.cancel()

    asyncio.run(asyncio.wait_for(carry_out(), 240))
    scenario = scenario_of(tiny_base, texts, shape)
    wanted = needles(tiny_base)
    kept = [(topic, payload) for topic, payload in captured if whole(payload)]
    assert len(kept) == len(captured)
    crossed = search(contents(kept, scenario), wanted)
    assert search(files_outside_agents(directory), wanted) == set()
    check(shape, crossed)


def whole(payload: bytes) -> bool:
    """Whether a payload is one of ours."""
    try:
        wire.parse(payload)
    except WireError:
        return False
    return True
