"""Adapters cross as their change, both ends keep one reference, and other bytes change nothing."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.adapter_stream import DOWN, HEADER, UP, AdapterStream
from splitcom.adapters import AdapterState, fedavg
from splitcom.codec import CODECS
from splitcom.config import AdaptersConfig
from splitcom.errors import CodecError, DesyncError

SHAPES = {"h.0.lora_A.weight": (2, 6), "h.0.lora_B.weight": (9, 2), "h.1.lora_A.weight": (2, 5)}
CONFIGS = [AdaptersConfig(codec=c, lossless=s) for c in ("fp32", "fp16", "int8") for s in ("none", "lz4", "zstd")]  # type: ignore[arg-type]
LOSSY = [config for config in CONFIGS if config.codec != "fp32"]


def name_of(config: AdaptersConfig) -> str:
    return f"{config.codec} {config.lossless}"


def adapter(seed: int, size: float = 0.1) -> AdapterState:
    draw = np.random.default_rng(seed)
    return {n: torch.from_numpy((size * draw.standard_normal(s)).astype(np.float32)) for n, s in SHAPES.items()}


def moved(state: AdapterState, seed: int, size: float) -> AdapterState:
    change = adapter(seed, size)
    return {name: tensor + change[name] for name, tensor in state.items()}


def equal(a: AdapterState, b: AdapterState) -> bool:
    """Same names, shapes and bits."""
    return {n: (t.shape, t.numpy().tobytes()) for n, t in a.items()} == {
        n: (t.shape, t.numpy().tobytes()) for n, t in b.items()
    }


def distance(a: AdapterState, b: AdapterState) -> float:
    """The largest difference of two values."""
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def ends(config: AdaptersConfig) -> tuple[AdapterStream, AdapterStream]:
    return AdapterStream(adapter(0), config), AdapterStream(adapter(0), config)


def snapshot(stream: AdapterStream) -> tuple[Any, ...]:
    return tuple((n, t.numpy().tobytes()) for n, t in stream.reference.items())


def sealed(content: bytes) -> bytes:
    return content + zlib.crc32(content).to_bytes(4, "big")


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
@given(
    rounds=st.lists(
        st.tuples(
            st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-42, 1e-39, 1e-6, 1e-3, 1.0, 1e30]), st.integers(1, 3)
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=25, deadline=None)
def test_both_ends_hold_the_same_reference_after_any_rounds(
    config: AdaptersConfig, rounds: list[tuple[int, float, int]]
) -> None:
    client, server = ends(config)
    for seed, size, repeats in rounds:
        trained = moved(client.reference, seed, size)
        up = {client.encode_up(trained) for _ in range(repeats)}
        assert len(up) == 1
        seen = server.decode_up(up.pop())
        mean = fedavg([(3, seen), (1, moved(seen, seed + 1, size))])
        decoded = client.decode_down(server.encode_down(mean))
        assert equal(decoded, client.reference)
        assert equal(decoded, server.reference)
        if config.codec == "fp32":
            assert equal(seen, trained)
            assert equal(decoded, mean)


@pytest.mark.parametrize("config", LOSSY, ids=name_of)
def test_the_error_is_in_proportion_to_the_change_and_not_to_the_values(config: AdaptersConfig) -> None:
    bound = {"fp16": 2.0**-11, "int8": 1.01 / 254}[config.codec]
    client, server = ends(config)
    for size in (1.0, 1e-2, 1e-5):
        trained = moved(client.reference, 7, size)
        change = distance(trained, client.reference)
        # The sum with the reference is rounded to float32 once more.
        assert distance(server.decode_up(client.encode_up(trained)), trained) <= bound * change + 1e-8


@pytest.mark.parametrize("config", LOSSY, ids=name_of)
def test_the_errors_of_many_means_do_not_add_up(config: AdaptersConfig) -> None:
    client, server = ends(config)
    mean = adapter(0)
    for seed in range(200):
        mean = moved(mean, seed, 0.01)
        decoded = client.decode_down(server.encode_down(mean))
    # One round's change is at most 0.05 here, so that one INT8 step is below 0.05 / 127 plus 1 %.
    assert distance(decoded, mean) < 0.05 / 127
    assert distance(client.decode_down(server.encode_down(mean)), mean) < 1e-5


def test_each_client_has_a_mean_of_its_own() -> None:
    config = AdaptersConfig(codec="int8")
    pairs = [ends(config) for _ in range(2)]
    for number, (client, server) in enumerate(pairs):
        client.decode_down(server.encode_down(moved(server.reference, number, 0.1)))
    with pytest.raises(DesyncError):
        pairs[0][1].decode_up(pairs[1][0].encode_up(adapter(0)))


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_a_mean_that_comes_again_or_was_missed_is_noticed(config: AdaptersConfig) -> None:
    client, server = ends(config)
    first = server.encode_down(adapter(1))
    second = server.encode_down(adapter(2))
    before = snapshot(client)
    with pytest.raises(DesyncError, match="reference") as caught:
        client.decode_down(second)
    assert caught.value.sample_ids == ()
    assert snapshot(client) == before
    client.decode_down(first)
    with pytest.raises(DesyncError):
        client.decode_down(first)
    client.decode_down(second)
    assert snapshot(client) == snapshot(server)


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_an_adapter_of_another_seed_or_with_other_names_is_another_reference(codec: str) -> None:
    config = AdaptersConfig(codec=codec)  # type: ignore[arg-type]
    data = AdapterStream(adapter(0), config).encode_up(adapter(3))
    renamed = {name.replace("h.1", "h.2"): tensor for name, tensor in adapter(0).items()}
    for other in (adapter(1), renamed):
        with pytest.raises(DesyncError):
            AdapterStream(other, config).decode_up(data)


def test_what_a_stream_gives_out_can_be_changed_without_harm() -> None:
    initial = adapter(0)
    client, server = AdapterStream(initial, AdaptersConfig(codec="fp16")), AdapterStream(adapter(0), AdaptersConfig())
    initial["h.0.lora_A.weight"].zero_()
    client.reference["h.0.lora_A.weight"].zero_()
    assert equal(client.reference, adapter(0))
    mean = adapter(1)
    server.decode_up(server.encode_up(mean))
    server.encode_down(mean)
    mean["h.0.lora_A.weight"].zero_()
    assert equal(server.reference, adapter(1))


def test_an_up_adapter_is_these_bytes() -> None:
    initial = {"b": torch.zeros(3, 1), "a": torch.ones(1, 2)}
    state = {"a": torch.tensor([[2.0, 0.0]]), "b": torch.tensor([[1.0], [0.0], [-1.0]])}
    content = bytes.fromhex(
        "01 00 02 00 3949ba51"  # version, up, int8, stored, digest of the reference
        "023c 7e82"  # a: one scale, 2^-7 + 2^-13, little-endian; changes 126 and -126 of it
        "023c 7e0082"  # b, turned: one scale and one row of three
    )
    reference = zlib.crc32(b"a 1 2\n\x00\x00\x80\x3f\x00\x00\x80\x3fb 1 3\n" + bytes(12))
    assert content[4:8] == reference.to_bytes(4, "big")
    assert AdapterStream(initial, AdaptersConfig(codec="int8", lossless="zstd")).encode_up(state) == sealed(content)


def test_an_adapter_that_has_not_changed_shrinks_to_almost_nothing() -> None:
    big = {"a": torch.ones(8, 500)}
    stream = AdapterStream(big, AdaptersConfig(codec="int8", lossless="zstd"))
    assert len(stream.encode_up(big)) < 60


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_and_change_nothing(config: AdaptersConfig, value: float) -> None:
    client, server = ends(config)
    bad = adapter(1)
    bad["h.0.lora_B.weight"][4, 1] = value
    before = snapshot(server)
    for encode in (client.encode_up, server.encode_down):
        with pytest.raises(CodecError, match=r"h\.0\.lora_B\.weight: .*not finite") as caught:
            encode(bad)
        assert "\n" not in str(caught.value)
    assert snapshot(server) == snapshot(client) == before


@pytest.mark.parametrize("config", LOSSY, ids=name_of)
def test_what_would_leave_the_range_of_float32_is_refused_by_its_sender(config: AdaptersConfig) -> None:
    with pytest.raises(CodecError, match="beyond"):
        AdapterStream({"w": torch.tensor([[3e38]])}, config).encode_up({"w": torch.tensor([[-3e38]])})
    top, refused = {"w": torch.tensor([[float(np.finfo(np.float32).max)]])}, 0
    for start in np.linspace(1.9e38, 2.1e38, 50):
        stream = AdapterStream({"w": torch.tensor([[start]], dtype=torch.float32)}, config)
        try:
            data = stream.encode_up(top)
        except CodecError as error:  # the codec rounds this change up, past the top
            assert "not finite" in str(error)
            refused += 1
        else:
            assert bool(torch.isfinite(stream.decode_up(data)["w"]).all())
    assert 0 < refused < 50


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ({}, "missing"),
        (adapter(1) | {"x": torch.zeros(2, 2)}, "'x' is not of these parts"),
        (adapter(1) | {"h.1.lora_A.weight": torch.zeros(5, 2)}, r"shape \(5, 2\)"),
        (adapter(1) | {"h.1.lora_A.weight": torch.zeros(2, 5, dtype=torch.float64)}, "float64"),
        (adapter(1) | {"h.1.lora_A.weight": torch.zeros(2, 5, dtype=torch.bfloat16)}, "bfloat16"),
    ],
)
def test_a_state_that_is_not_of_the_adapter_is_refused(state: AdapterState, what: str) -> None:
    stream = AdapterStream(adapter(0), AdaptersConfig(codec="int8"))
    for encode in (stream.encode_up, stream.encode_down):
        with pytest.raises(CodecError, match=what):
            encode(state)


def test_an_adapter_that_is_no_set_of_matrices_makes_no_stream() -> None:
    with pytest.raises(CodecError, match="matrix"):
        AdapterStream({"bias": torch.zeros(3)}, AdaptersConfig())


def header(stream: AdapterStream, direction: int = DOWN, **changes: int) -> bytes:
    """A header that the stream accepts, but for the changes."""
    version, _, codec, lossless, digest = HEADER.unpack_from(stream.encode_up(stream.reference))
    fields = {"version": version, "direction": direction, "codec": codec, "lossless": lossless, "digest": digest}
    return HEADER.pack(*(fields | changes).values())


BODY = bytes(sum(CODECS["int8"].size(min(s), max(s)) for s in SHAPES.values()))


@pytest.mark.parametrize(
    ("changes", "body", "what"),
    [
        ({"version": 2}, BODY, "version 2; valid: 1"),
        ({"direction": UP}, BODY, r"direction 0; valid: 1 \(down\)"),
        ({"codec": 1}, BODY, r"codec code 1; valid: 2 \(int8\)"),
        ({"lossless": 2}, BODY, "lossless code 2; valid: 0, 1"),
        ({"lossless": 9}, BODY, "lossless code 9"),
        ({"lossless": 1}, b"\xff\xff", "lz4"),
        ({"lossless": 0}, BODY[:-1], "lossless stage"),
        ({"lossless": 0}, BODY + b"\x00", "lossless stage"),
        ({"lossless": 0}, BODY, "a scale"),
    ],
    ids=["version", "direction", "codec", "stage", "no stage", "bad lz4", "short", "long", "scale"],
)
def test_a_malformed_adapter_is_refused_by_name(changes: dict[str, int], body: bytes, what: str) -> None:
    stream = AdapterStream(adapter(0), AdaptersConfig(codec="int8", lossless="lz4"))
    with pytest.raises(CodecError, match=what):
        stream.decode_down(sealed(header(stream, **changes) + body))


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_every_cut_and_every_flipped_bit_is_noticed(config: AdaptersConfig) -> None:
    client, server = ends(config)
    data = server.encode_down(adapter(1))
    before = snapshot(client)
    flips = [data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for at in range(len(data)) for bit in (0, 7)]
    for bad in [*(data[:at] for at in range(len(data))), *flips]:
        with pytest.raises(CodecError, match="checksum"):
            client.decode_down(bad)
    assert snapshot(client) == before


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
@given(junk=st.binary(max_size=200), at=st.integers(0, 220), stored=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_bytes_raise_nothing_but_codec_error_and_change_nothing(
    config: AdaptersConfig, junk: bytes, at: int, stored: bool
) -> None:
    client, server = ends(config)
    before = snapshot(client)
    data = server.encode_down(adapter(1, 1e30))
    content = data[:-4][:at] + junk + data[:-4][at + len(junk) :]
    start = header(client, **({"lossless": 0} if stored else {}))
    for bad in (junk, sealed(junk), sealed(content), sealed(start + junk)):
        try:
            client.decode_down(bad)
        except CodecError as error:
            assert "\n" not in str(error)
            assert snapshot(client) == before
        else:
            assert all(bool(torch.isfinite(tensor).all()) for tensor in client.reference.values())
            client = AdapterStream(adapter(0), config)
