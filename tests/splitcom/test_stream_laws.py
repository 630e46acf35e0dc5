"""The law of references: both ends hold the same, or the difference is noticed, whatever happens in between.

The machine plays the network and both owners. Packets and answers are delivered late, twice, damaged or never, in any
order; steps are accepted, refused or given up; either end restarts, with or without the other being told.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from splitcom.codec import CODECS
from splitcom.config import StreamConfig
from splitcom.errors import CodecError, DesyncError
from splitcom.frame import Layout, Skip, parse
from splitcom.gate import GATES
from splitcom.reference import Reference, digest
from splitcom.sketch import Sketcher
from splitcom.stream import Decoded, StreamDecoder, StreamEncoder

C, DIMENSIONS, SEED = 4, 5, 3
SAMPLES = (1, 2, 300)
FAR = 10**6  # a step that no run of the machine reaches
WHICH = st.integers(0, 10**6)  # picks one of a list, whatever its length


class References(RuleBasedStateMachine):
    """One encoder, one decoder, and everything between them."""

    @initialize(
        gate=st.sampled_from(["cosine", "relative_l2", "once", "none"]),
        memory=st.sampled_from(["sketch", "full"]),
        codec=st.sampled_from(sorted(CODECS)),
        mortal=st.booleans(),
    )
    def start(self, gate: Any, memory: Any, codec: Any, mortal: bool) -> None:
        self.config = StreamConfig(
            gate=gate, threshold=0.9, sender_memory=memory, sketch_dim=DIMENSIONS, codec=codec, lossless="lz4"
        )
        self.layout = Layout("activation_up", codec, "lz4", C)
        self.sketcher = Sketcher(SEED, "activation_up", C, DIMENSIONS)
        self.encoder, self.decoder = self.new_encoder(), self.new_decoder()
        self.tensors = {i: np.full((2, C), i, np.float32) for i in SAMPLES}
        self.step = 0
        self.packets: list[tuple[int, bytes]] = []
        self.answers: list[tuple[str, int, tuple[int, ...]]] = []
        self.expected: dict[int, dict[int, Any]] = {}
        self.undecided: list[int] = []
        self.decoded = -1
        self.mortal, self.restarted = mortal, False

    def new_encoder(self) -> StreamEncoder:
        return StreamEncoder("activation_up", self.config, C, SEED)

    def new_decoder(self) -> StreamDecoder:
        return StreamDecoder("activation_up", self.config, C, SEED, max_tokens=8, max_samples=len(SAMPLES))

    def comparable(self, tensor: np.ndarray) -> np.ndarray:
        """What a sender that compares keeps of a receiver's tensor."""
        if GATES[self.config.gate].similarity is None:
            return np.empty(0, np.float32)
        return tensor if self.config.sender_memory == "full" else self.sketcher.sketch(tensor)

    def encode(self, encoder: StreamEncoder, step: int, ids: tuple[int, ...]) -> bytes:
        """Encode the samples as they are now; note what the receiver must compute with, as the sender sees it."""
        references = {i: encoder.cache.get(i) for i in ids}
        data = encoder.encode(step, ids, [self.tensors[i] for i in ids]).data
        codec, expected = CODECS[self.config.codec], {}
        for frame in parse(self.layout, data)[0]:
            i, tensor = frame.sample_id, self.tensors[frame.sample_id]
            if isinstance(frame, Skip):
                expected[i] = references[i]
            else:
                expected[i] = codec.decode(codec.encode(tensor), len(tensor), C)
        self.expected[step] = expected
        return data

    def decode(self, decoder: StreamDecoder, step: int, data: bytes) -> tuple[int, ...]:
        """Decode and compare with what was noted; the samples that must come whole, if there are any."""
        before = _state(decoder)
        try:
            decoded = decoder.decode(step, data)
        except DesyncError as error:
            missing = error.sample_ids
        else:
            self.compare(decoded, step)
            return ()
        assert _state(decoder) == before
        assert missing
        assert {i for i, expected in self.expected[step].items() if isinstance(expected, Reference)}.issuperset(missing)
        assert self.restarted, "references differ although both ends have lived on"
        return missing

    def compare(self, decoded: Decoded, step: int) -> None:
        """The receiver computes with what the sender believes that it does."""
        assert decoded.sample_ids == list(self.expected[step])
        for tensor, expected in zip(decoded.tensors, self.expected[step].values(), strict=True):
            if isinstance(expected, Reference):
                assert digest(tensor) == expected.digest
                assert np.array_equal(self.comparable(tensor), expected.kept)
            else:
                assert tensor.tobytes() == expected.tobytes()

    @rule(
        ids=st.lists(st.sampled_from(SAMPLES), min_size=1, unique=True),
        change=st.sampled_from([0, 0, 0.01, 3]),
        tokens=st.sampled_from([None, None, None, 2, 3]),
        seed=st.integers(0, 9),
        far=st.sampled_from(["sent", "delivered", "decided", "answered", "answered"]),
    )
    def send(self, ids: list[int], change: float, tokens: int | None, seed: int, far: str) -> None:
        """A step of some samples, which goes so far without trouble."""
        draw = np.random.default_rng(seed)
        for i in ids:
            shape = (tokens or len(self.tensors[i]), C)
            noise = change * draw.standard_normal(shape)
            self.tensors[i] = (np.resize(self.tensors[i], shape) + noise).astype(np.float32)
        self.step += 1
        self.packets.append((self.step, self.encode(self.encoder, self.step, tuple(ids))))
        if far != "sent":
            self.deliver(which=-1, again=False, damaged=False)
        if far in ("decided", "answered") and self.step in self.undecided:
            self.decide(which=self.undecided.index(self.step), accept=True, named=[])
            if far == "answered":
                self.answer(which=-1, again=False)

    @precondition(lambda self: self.packets)
    @rule(which=WHICH, again=st.booleans(), damaged=st.sampled_from([False, False, True]))
    def deliver(self, which: int, again: bool, damaged: bool) -> None:
        """A packet comes, and may come again; the receiver's owner ignores repeats and answers failures."""
        step, data = _pick(self.packets, which, again)
        if step <= self.decoded:
            self.fails(step, data, "stale")
            return
        self.decoded = step
        if damaged:
            self.fails(step, bytes([data[0] ^ 1]) + data[1:], "checksum")
            self.decoder.refuse(step)
            self.answers.append(("refuse", step, ()))
            return
        missing = self.decode(self.decoder, step, data)
        if missing:
            self.decoder.refuse(step)
            self.answers.append(("refuse", step, missing))
        else:
            self.undecided.append(step)

    def fails(self, step: int, data: bytes, why: str) -> None:
        """The packet is refused, and that is all that happens."""
        before = _state(self.decoder)
        with pytest.raises(CodecError, match=why):
            self.decoder.decode(step, data)
        assert _state(self.decoder) == before

    @precondition(lambda self: self.packets)
    @rule(which=WHICH)
    def lose_packet(self, which: int) -> None:
        _pick(self.packets, which, again=False)

    @precondition(lambda self: self.undecided)
    @rule(
        which=WHICH, accept=st.sampled_from([True, True, False]), named=st.lists(st.sampled_from(SAMPLES), unique=True)
    )
    def decide(self, which: int, accept: bool, named: list[int]) -> None:
        """The receiver's owner uses a step, or refuses it for reasons of its own."""
        step = _pick(self.undecided, which, again=False)
        (self.decoder.accept if accept else self.decoder.refuse)(step)
        self.answers.append(("accept" if accept else "refuse", step, () if accept else tuple(named)))

    @precondition(lambda self: self.answers)
    @rule(which=WHICH, again=st.booleans())
    def answer(self, which: int, again: bool) -> None:
        verdict, step, named = _pick(self.answers, which, again)
        if verdict == "accept":
            self.encoder.accept(step)
        else:
            self.encoder.refuse(step, named)

    @precondition(lambda self: self.answers)
    @rule(which=WHICH)
    def lose_answer(self, which: int) -> None:
        _pick(self.answers, which, again=False)

    @precondition(lambda self: self.step)
    @rule(back=st.integers(0, 4))
    def give_up(self, back: int) -> None:
        """The sender's owner has waited long enough, or gives up a step twice, or one that was decided."""
        self.encoder.lose(self.step - back)

    @precondition(lambda self: self.mortal)
    @rule(told=st.booleans(), anew=st.booleans())
    def restart_receiver(self, told: bool, anew: bool) -> None:
        if anew:
            self.decoder = self.new_decoder()
        else:
            self.decoder.reset()
        self.undecided, self.decoded, self.restarted = [], -1, True
        if told:
            self.encoder.reset()

    @precondition(lambda self: self.mortal)
    @rule(told=st.booleans(), anew=st.booleans())
    def restart_sender(self, told: bool, anew: bool) -> None:
        if anew:
            self.encoder = self.new_encoder()
        else:
            self.encoder.reset()
        if told:
            self.decoder.reset()
            self.undecided, self.decoded, self.restarted = [], -1, True

    @rule()
    def heal(self) -> None:
        """However bad it was: after at most one refusal everything crosses again."""
        encoder, decoder = copy.deepcopy((self.encoder, self.decoder))
        missing = self.decode(decoder, FAR, self.encode(encoder, FAR, SAMPLES))
        if missing:
            decoder.refuse(FAR)
            encoder.refuse(FAR, missing)
            assert self.decode(decoder, FAR + 1, self.encode(encoder, FAR + 1, SAMPLES)) == ()

    @invariant()
    def what_is_sent_now_is_understood(self) -> None:
        """A packet made and delivered this moment gives the right tensors, or names the skips that cannot be."""
        encoder, decoder = copy.deepcopy((self.encoder, self.decoder))
        encoder.threshold = -1  # skips wherever it may
        self.decode(decoder, FAR, self.encode(encoder, FAR, SAMPLES))

    @invariant()
    def equal_names_mean_equal_references(self) -> None:
        for i in SAMPLES:
            sender, receiver = self.encoder.cache.get(i), self.decoder.cache.get(i)
            if sender and receiver and (sender.generation, sender.digest) == (receiver.generation, receiver.digest):
                assert digest(receiver.kept) == sender.digest
                assert np.array_equal(self.comparable(receiver.kept), sender.kept)


def _pick(items: list[Any], which: int, again: bool) -> Any:
    """One of the items, which stays for another time if `again`."""
    at = which % len(items)
    return items[at] if again else items.pop(at)


def _state(decoder: StreamDecoder) -> tuple[Any, ...]:
    """Everything a failed packet must not change, as far as it shows from outside."""
    held = {i: decoder.cache.get(i) for i in SAMPLES}
    return decoder.memory_bytes, {i: (r.step, r.generation, r.digest) for i, r in held.items() if r}


TestReferences = References.TestCase
TestReferences.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
