"""Client-side adapters on the wire: up from a client, down as the mean of all, coded as a closed loop.

Both ends hold the client's last mean as their reference, at first the adapter that they draw from the seed. A lossy
codec is given the *change* to the reference (as AQ-SGD, arXiv 2206.01299, does for activations), whose error shrinks
with the change; `fp32` sends the values themselves. Downwards both ends take the decoded mean as the new reference, so
that an error of one round is part of the next round's change and never adds up. `docs/wire-format.md` has the bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np
import torch

from splitcom.adapters import AdapterState
from splitcom.checksum import sealed, unsealed
from splitcom.codec import CODECS, LOSSLESS, Tensor
from splitcom.codec.base import check_finite
from splitcom.config import AdaptersConfig
from splitcom.errors import CodecError, DesyncError, choices

VERSION = 1
UP, DOWN = 0, 1
DIRECTIONS = {UP: "up", DOWN: "down"}
# Version, direction, codec, lossless stage, digest of the reference.
HEADER = struct.Struct(">BBBBI")

# The smallest normal float32: sums below it become zero, since not every machine computes subnormal numbers alike.
SMALLEST = np.float32(2.0**-126)

Matrices = dict[str, Tensor]


class AdapterStream:
    """One client's adapter in both directions; each end has one, made of the same `initial` adapter and `config`.

    The client calls `encode_up` and `decode_down`, the server `decode_up` and `encode_down`, once each in a round. Up
    changes nothing at either end, so a state can be sent again; down moves both ends to the new reference.
    """

    def __init__(self, initial: AdapterState, config: AdaptersConfig) -> None:
        """Names and shapes are those of `initial`, LoRA matrices in float32; CodecError for anything else."""
        self._codec, self._lossless = CODECS[config.codec], config.lossless
        self._codec_name = config.codec
        self._whole = config.codec == "fp32"
        self._shapes = {name: tuple(initial[name].shape) for name in sorted(initial)}
        self._hold({name: _normal(matrix) for name, matrix in self._matrices(initial).items()})

    @property
    def reference(self) -> AdapterState:
        """A copy of what both ends know to be the client's last mean."""
        return self._state(self._reference)

    def encode_up(self, state: AdapterState) -> bytes:
        """The client's adapter; CodecError for other names, shapes or dtypes, or values that are not finite."""
        return self._encode(UP, state)[0]

    def decode_up(self, data: bytes) -> AdapterState:
        """The client's adapter as the codec leaves it.

        DesyncError when it stands on another reference, CodecError of one line for any other bytes.
        """
        return self._state(self._decode(UP, data))

    def encode_down(self, mean: AdapterState) -> bytes:
        """The mean of the clients; what the client will decode is the new reference. An error changes nothing."""
        data, decoded = self._encode(DOWN, mean)
        self._hold(decoded)
        return data

    def decode_down(self, data: bytes) -> AdapterState:
        """The mean as the codec leaves it, which is the new reference. Errors as `decode_up`; they change nothing."""
        decoded = self._decode(DOWN, data)
        self._hold(decoded)
        return self._state(decoded)

    def _hold(self, reference: Matrices) -> None:
        self._reference, self._digest = reference, digest(reference)

    def _encode(self, direction: int, state: AdapterState) -> tuple[bytes, Matrices]:
        """The bytes, and what the other end will decode."""
        bodies: list[bytes] = []
        decoded: Matrices = {}
        for name, matrix in self._matrices(state).items():
            with np.errstate(over="ignore"):
                change = matrix if self._whole else matrix - self._reference[name]
            try:
                bodies.append(self._codec.encode(change))
            except CodecError as error:
                raise CodecError(f"adapter: {name}: {error}") from None
            decoded[name] = self._apply(name, bodies[-1])
        coded = b"".join(bodies)
        stage = LOSSLESS[self._lossless]
        packed = stage.compress(coded)
        if len(packed) >= len(coded):
            stage, packed = LOSSLESS["none"], coded
        content = HEADER.pack(VERSION, direction, self._codec.code, stage.code, self._digest) + packed
        return sealed(content), decoded

    def _decode(self, direction: int, data: bytes) -> Matrices:
        content = bytes(unsealed(data, "adapter"))
        if len(content) < HEADER.size:
            raise CodecError(f"adapter: {len(content)} bytes; valid: {HEADER.size} or more before the checksum")
        lossless = self._check_header(direction, content)
        sizes = {name: self._codec.size(*matrix.shape) for name, matrix in self._reference.items()}
        bodies = memoryview(LOSSLESS[lossless].decompress(content[HEADER.size :], sum(sizes.values())))
        decoded: Matrices = {}
        at = 0
        for name, size in sizes.items():
            decoded[name] = self._apply(name, bodies[at : at + size])
            at += size
        return decoded

    def _check_header(self, direction: int, content: bytes) -> str:
        """The name of the lossless stage that was applied."""
        version, found, codec, lossless, stands_on = HEADER.unpack_from(content)
        if version != VERSION:
            raise CodecError(f"adapter: version {version}; valid: {VERSION}")
        if found != direction:
            raise CodecError(f"adapter: direction {found}; valid: {direction} ({DIRECTIONS[direction]})")
        if codec != self._codec.code:
            raise CodecError(f"adapter: codec code {codec}; valid: {self._codec.code} ({self._codec_name})")
        stages = {LOSSLESS[name].code: name for name in ("none", self._lossless)}
        if lossless not in stages:
            raise CodecError(f"adapter: lossless code {lossless}; {choices(stages)}")
        if stands_on != self._digest:
            raise DesyncError(f"adapter: stands on reference {stands_on:08x}; valid: {self._digest:08x}")
        return stages[lossless]

    def _apply(self, name: str, body: bytes | memoryview) -> Tensor:
        """The matrix that a body makes of the reference."""
        reference = self._reference[name]
        try:
            change = self._codec.decode(body, *reference.shape)
            if self._whole:
                return change
            with np.errstate(over="ignore"):
                matrix = _normal(reference + change)
            check_finite(matrix)
        except CodecError as error:
            raise CodecError(f"adapter: {name}: {error}") from None
        return matrix

    def _matrices(self, state: Mapping[str, torch.Tensor]) -> Matrices:
        """The tensors in the order of their names, each with its shorter side, the rank, as rows.

        A codec's rows are scaled one by one: A is (rank, fan in) and B (fan out, rank), so `rank` scales are enough.
        """
        odd = sorted(set(self._shapes) ^ set(state))
        if odd:
            raise CodecError(
                f"adapter: tensor {odd[0]!r} is {'missing' if odd[0] in self._shapes else 'not of these parts'}"
            )
        matrices: Matrices = {}
        for name, shape in self._shapes.items():
            tensor = state[name]
            if tuple(tensor.shape) != shape or len(shape) != 2 or tensor.dtype != torch.float32:
                raise CodecError(
                    f"adapter: {name} is {tensor.dtype} of shape {tuple(tensor.shape)}; "
                    f"valid: torch.float32 matrix of shape {shape}"
                )
            values = tensor.detach().cpu().numpy()
            matrices[name] = np.array(values.T if _tall(shape) else values, np.float32, order="C")
        return matrices

    def _state(self, matrices: Matrices) -> AdapterState:
        """The adapter in its own shapes and memory."""
        turned = {name: m.T if _tall(self._shapes[name]) else m for name, m in matrices.items()}
        return {name: torch.from_numpy(np.array(m, order="C")) for name, m in turned.items()}


def digest(matrices: Matrices) -> int:
    """32-bit digest of a reference: CRC-32 over every tensor's name, shape and little-endian values, in their order."""
    state = 0
    for name, matrix in matrices.items():
        label = f"{name} {matrix.shape[0]} {matrix.shape[1]}\n".encode()
        state = zlib.crc32(np.ascontiguousarray(matrix, "<f4").data, zlib.crc32(label, state))
    return state


def _tall(shape: tuple[int, ...]) -> bool:
    return shape[0] > shape[1]


def _normal(matrix: Tensor) -> Tensor:
    """The matrix with its subnormal numbers set to zero."""
    matrix[np.abs(matrix) < SMALLEST] = 0
    return matrix
