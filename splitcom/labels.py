"""Labels: the target token ids of a sample, which cross to the server once.

They never change, so there is no reference to agree on: the sender repeats what it does not know to have arrived, and
the receiver keeps what it has got. `docs/wire-format.md` has the byte table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
from numpy.typing import ArrayLike, NDArray

from splitcom.checksum import sealed, unsealed
from splitcom.errors import CodecError, DesyncError
from splitcom.frame import MAX_SAMPLE_ID, MAX_SAMPLES, MAX_TOKENS
from splitcom.reference import IN_FLIGHT

VERSION = 1
WIDTHS = {2: "<u2", 4: "<u4"}
MAX_ID = 2**32 - 1

Ids = NDArray[np.int64]


class LabelSender:
    """Knows which samples' labels the receiver has; a step's labels count as arrived once the step is accepted."""

    def __init__(self) -> None:
        self._arrived: set[int] = set()
        self._in_flight: dict[int, tuple[int, ...]] = {}

    def encode(self, step: int, labels: Sequence[tuple[int, int, ArrayLike]]) -> bytes:
        """What is new of a batch of (sample id, position of the first target, target ids); b"" when nothing is.

        CodecError for numbers out of range, no ids, or a sample that occurs twice; the sender is then as before.
        At most IN_FLIGHT steps stay undecided: beyond that the oldest counts as lost.
        """
        sample_ids = tuple(sample_id for sample_id, _, _ in labels)
        if len(set(sample_ids)) < len(sample_ids) or len(labels) > MAX_SAMPLES:
            raise CodecError(f"labels: a sample id occurs twice, or more than {MAX_SAMPLES} samples")
        new = [_checked(*label) for label in labels if label[0] not in self._arrived]
        self._in_flight[step] = sample_ids
        while len(self._in_flight) > IN_FLIGHT:
            self.lose(min(self._in_flight))
        return _pack(new) if new else b""

    def accept(self, step: int) -> None:
        """The step's labels have arrived. A no-op for a step that is not in flight."""
        self._arrived.update(self._in_flight.pop(step, ()))

    def refuse(self, step: int) -> None:
        """The receiver refused the step: the labels of all its samples are sent again, also those that had arrived.

        The receiver may have refused because it restarted and misses just these. A no-op as above.
        """
        self._arrived.difference_update(self._in_flight.pop(step, ()))

    def lose(self, step: int) -> None:
        """Nobody knows whether the step arrived: as `refuse`."""
        self.refuse(step)

    def reset(self) -> None:
        """The other end restarted: everything is sent again."""
        self._arrived.clear()
        self._in_flight.clear()


class LabelReceiver:
    """The labels that have come, by sample; the bounds are those of a packet of labels."""

    def __init__(
        self, max_samples: int = MAX_SAMPLES, max_tokens: int = MAX_TOKENS, vocabulary: int = MAX_ID + 1
    ) -> None:
        self._max_samples, self._max_tokens, self._vocabulary = max_samples, max_tokens, vocabulary
        self._held: dict[int, tuple[int, Ids]] = {}
        self._tentative: dict[int, dict[int, tuple[int, Ids]]] = {}

    def decode(self, step: int, data: bytes) -> None:
        """Take in a step's labels, tentatively; b"" brings none. CodecError for any other bytes leaves all as it was.

        A sample may have up to `max_tokens` ids, each below `vocabulary`, the first at a position up to `max_tokens`.
        """
        if not data:
            return
        self._tentative[step] = self._parse(data)
        while len(self._tentative) > IN_FLIGHT:
            self.refuse(min(self._tentative))

    def get(self, sample_id: int) -> tuple[int, Ids]:
        """(position of the first target, (n,) ids), tentative ones included; DesyncError if they have not come."""
        for known in (self._held, *self._tentative.values()):
            if sample_id in known:
                return known[sample_id]
        raise DesyncError(f"labels: sample {sample_id} has none", [sample_id])

    def accept(self, step: int) -> None:
        """The step was used: its labels stay. A no-op for an unknown step."""
        self._held.update(self._tentative.pop(step, {}))

    def refuse(self, step: int) -> None:
        """The step was not used: its labels are dropped. A no-op for an unknown step."""
        self._tentative.pop(step, None)

    def reset(self) -> None:
        """The other end restarted: everything is forgotten."""
        self._held.clear()
        self._tentative.clear()

    def _parse(self, data: bytes) -> dict[int, tuple[int, Ids]]:
        content = bytes(unsealed(data, "labels"))
        (version, width, count), fields = _fields(content, self._max_samples)
        if version != VERSION or width not in WIDTHS:
            raise CodecError(f"labels: version {version}, width {width}; valid: version {VERSION}, width 2 or 4")
        labels: dict[int, tuple[int, Ids]] = {}
        for sample_id, start, ids in fields:
            if type(sample_id) is not int or not 0 <= sample_id <= MAX_SAMPLE_ID or sample_id in labels:
                raise CodecError("labels: a sample id that occurs twice, is out of range or no integer")
            if type(start) is not int or not 0 <= start <= self._max_tokens:
                raise CodecError(f"labels: sample {sample_id} does not start at 0 to {self._max_tokens}")
            if type(ids) is not bytes or len(ids) % width or not 1 <= len(ids) // width <= self._max_tokens:
                raise CodecError(f"labels: sample {sample_id} has not 1 to {self._max_tokens} ids of {width} bytes")
            values = np.frombuffer(ids, WIDTHS[width]).astype(np.int64)
            if values.max() >= self._vocabulary:
                raise CodecError(f"labels: sample {sample_id} has id {values.max()}; valid: below {self._vocabulary}")
            values.setflags(write=False)
            labels[sample_id] = (start, values)
        if len(labels) != count or _pack([(i, *label) for i, label in labels.items()], width) != data:
            raise CodecError("labels: fields that are not in their shortest form, or bytes left over")
        return labels


def _checked(sample_id: int, start: int, ids: ArrayLike) -> tuple[int, int, Ids]:
    values = np.asarray(ids)
    if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "iu":
        raise CodecError(f"labels: sample {sample_id} has no ids, or they are no list of integers")
    if not 0 <= sample_id <= MAX_SAMPLE_ID or not 0 <= start <= MAX_TOKENS or values.size > MAX_TOKENS:
        raise CodecError(f"labels: sample {sample_id} with {values.size} ids from position {start} is out of range")
    if values.min() < 0 or values.max() > MAX_ID:
        raise CodecError(f"labels: sample {sample_id} has an id that is not in 0 to {MAX_ID}")
    return sample_id, start, values.astype(np.int64)


def _pack(labels: Sequence[tuple[int, int, Ids]], width: int = 0) -> bytes:
    """A packet of labels whose ids take `width` bytes, or as few as the largest needs."""
    width = width or (2 if max(int(ids.max()) for _, _, ids in labels) < 2**16 else 4)
    fields = [[sample_id, start, ids.astype(WIDTHS[width]).tobytes()] for sample_id, start, ids in labels]
    content = b"".join(msgpack.packb(field) for field in [[VERSION, width, len(labels)], *fields])
    return sealed(content)


def _fields(content: bytes, max_samples: int) -> tuple[list[int], list[list[Any]]]:
    """Header and one array per sample, each an array of three; what they hold is for the caller to check."""
    limits = {"max_array_len": 3, "max_map_len": 0, "max_str_len": 0, "max_ext_len": 0}
    unpacker = msgpack.Unpacker(raw=True, max_buffer_size=len(content), max_bin_len=len(content), **limits)
    try:
        unpacker.feed(content)
        header = unpacker.unpack()
        if type(header) is not list or len(header) != 3 or not all(type(x) is int for x in header):
            raise CodecError("labels: header is no array of 3 integers")
        if not 1 <= header[2] <= max_samples:
            raise CodecError(f"labels: {header[2]} samples; valid: 1 to {max_samples}")
        fields = [unpacker.unpack() for _ in range(header[2])]
    except (ValueError, msgpack.UnpackException) as error:
        raise CodecError(f"labels: no msgpack of ours ({type(error).__name__})") from None
    if not all(type(field) is list and len(field) == 3 for field in fields):
        raise CodecError("labels: a sample that is no array of 3")
    return header, fields
