"""What a run is made of, as frozen dataclasses whose checks name the offending key.

Defaults are those of the scenario `splitcom`: a cosine gate on sketches, INT8 and LZ4 up, fp16 gradients down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

StreamName = Literal["activation_up", "gradient_down", "activation_down", "gradient_up"]
STREAMS: tuple[StreamName, ...] = ("activation_up", "gradient_down", "activation_down", "gradient_up")
STANDARD: tuple[StreamName, ...] = ("activation_up", "gradient_down")  # the others are the U-shape's
UPWARD: tuple[StreamName, ...] = ("activation_up", "gradient_up")
GRADIENTS: tuple[StreamName, ...] = ("gradient_down", "gradient_up")


def check(key: str, value: float, low: float, high: float = float("inf"), open_low: bool = False) -> None:
    """Raise ValueError('key: ...') unless low <= value <= high (low < value where `open_low`) and value is finite."""
    if not (low < value if open_low else low <= value) or not value <= high or math.isinf(value):
        lower = f"above {_number(low)}" if open_low else f"{_number(low)} or more"
        upper = "" if high == float("inf") else f", at most {_number(high)}"
        raise ValueError(f"{key}: {_number(value)} is out of range; valid: {lower}{upper}")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


@dataclass(frozen=True)
class BaseConfig:
    """The base, a hub name or a directory in Hugging Face layout, and how this process computes with it."""

    base: str = ""
    attention: Literal["sdpa", "eager"] = "sdpa"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


Shape = Literal["standard", "u"]


@dataclass(frozen=True)
class ModelConfig(BaseConfig):
    """A base and where it is cut: blocks [0, cut) are the head, the last `tail` blocks the tail, the rest the body.

    Shape `standard`: the server has body and tail, the clients send it their labels. Shape `u`: the clients have head,
    tail and labels, the server the body. `cuts` are entries `CLIENT=CUT` for clients that cut elsewhere than at `cut`.
    """

    shape: Shape = "standard"
    cut: int = 2
    tail: int = 0
    cuts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_shape(self.shape, self.cut, self.tail)
        for name, cut in self.unequal().items():
            check(f"cuts: {name}", cut, 1)

    def unequal(self) -> dict[str, int]:
        """The entries of `cuts` by client; ValueError for one that is none or a client that has two."""
        found: dict[str, int] = {}
        for entry in self.cuts:
            name, separator, cut = entry.partition("=")
            if not separator or not name or not cut.isdecimal() or name in found:
                raise ValueError(f"cuts: {entry!r}; valid: CLIENT=CUT, each client once, for example agent0=3")
            found[name] = int(cut)
        return found


def check_shape(shape: Shape, cut: int, tail: int) -> None:
    """Raise ValueError for a cut without a head, or for a U-shape without a tail."""
    check("cut", cut, 1)
    check("tail", tail, 0)
    if shape == "u" and tail < 1:
        raise ValueError("tail: 0 leaves no tail in the U-shape; valid: 1 or more")


@dataclass(frozen=True)
class LoraSettings:
    """LoRA of every part (Hu et al. 2021): scale alpha / rank on the named linear layers."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("c_attn", "c_proj", "c_fc")

    def __post_init__(self) -> None:
        check("rank", self.rank, 1, 4096)
        check("alpha", self.alpha, 0, open_low=True)
        check("dropout", self.dropout, 0, 1)
        if not self.targets:
            raise ValueError("targets: empty; valid: names of linear layers, for example c_attn, c_proj, c_fc")


@dataclass(frozen=True)
class StreamConfig:
    """How one tensor crosses in one direction; `enabled = false` sends nothing at all.

    A controller other than `fixed` starts at `threshold` and stays between `loose` (few uploads) and `tight` (many).
    """

    enabled: bool = True
    gate: Literal["none", "cosine", "relative_l2", "once"] = "none"
    threshold: float = 0.98
    loose: float = 0.95
    tight: float = 0.995
    sender_memory: Literal["sketch", "full"] = "sketch"
    sketch_dim: int = 64
    codec: Literal["fp32", "fp16", "int8"] = "fp16"
    lossless: Literal["none", "lz4", "zstd"] = "none"

    def __post_init__(self) -> None:
        for key in ("threshold", "loose", "tight"):
            check(key, getattr(self, key), -1, 1)
        if self.loose > self.tight:
            raise ValueError(f"loose: {self.loose:g} is above tight; valid: -1 to {self.tight:g}")
        check("sketch_dim", self.sketch_dim, 1, 4096)


def _activations() -> StreamConfig:
    return StreamConfig(gate="cosine", codec="int8", lossless="lz4")


def _gradients() -> StreamConfig:
    # Of one sample from epoch to epoch, gradients are less alike than activations: their gates lie lower.
    return StreamConfig(threshold=0.9, loose=0.8, tight=0.98)


@dataclass(frozen=True)
class StreamsConfig:
    """The streams of a client; the standard shape has the first two. A head that is frozen gets no gradients."""

    activation_up: StreamConfig = field(default_factory=_activations)
    gradient_down: StreamConfig = field(default_factory=_gradients)
    activation_down: StreamConfig = field(default_factory=_activations)
    gradient_up: StreamConfig = field(default_factory=_gradients)

    def __post_init__(self) -> None:
        for name in ("activation_up", "activation_down", "gradient_up"):
            if not getattr(self, name).enabled:
                raise ValueError(f"{name}.enabled: false; valid: true (only gradient_down can be left out)")

    def of(self, shape: Shape) -> dict[StreamName, StreamConfig]:
        """The streams that a shape has, by name."""
        names = STREAMS if shape == "u" else STANDARD
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class AdaptersConfig:
    """How client-side adapters cross: every so many epochs (and after the last), whole (`fp32`) or as their change
    since the last mean (`fp16`, `int8`)."""

    every: int = 1
    codec: Literal["fp32", "fp16", "int8"] = "fp32"
    lossless: Literal["none", "lz4", "zstd"] = "none"

    def __post_init__(self) -> None:
        check("every", self.every, 1)

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether adapters are exchanged after `epoch` (from 0) of `epochs`."""
        return (epoch + 1) % self.every == 0 or epoch + 1 == epochs


@dataclass(frozen=True)
class ControlConfig:
    """Who sets the thresholds of the gated streams while a run goes on.

    `fixed` nobody; `bang-bang` after each evaluation; `ddpg` and `random` at least `actions_per_epoch` times an epoch.
    `hysteresis` is the relative change of perplexity that bang-bang does not react to. DDPG starts from the file
    `policy` if one is given, goes on learning if `learn`, explores with `noise` (in units of half the range of
    thresholds, times `noise_decay` after each action), and weighs bytes against loss with `byte_weight`.
    """

    kind: Literal["fixed", "bang-bang", "ddpg", "random"] = "fixed"
    hysteresis: float = 0.01
    actions_per_epoch: int = 20
    policy: str = ""
    learn: bool = True
    noise: float = 0.3
    noise_decay: float = 0.99
    byte_weight: float = 0.05

    def __post_init__(self) -> None:
        check("hysteresis", self.hysteresis, 0)
        check("actions_per_epoch", self.actions_per_epoch, 1)
        check("noise", self.noise, 0)
        check("noise_decay", self.noise_decay, 0, 1, open_low=True)
        check("byte_weight", self.byte_weight, 0)
        if self.policy and self.kind != "ddpg":
            raise ValueError(f"policy: of no use with kind {self.kind}; valid: no policy, or kind ddpg")
        if self.kind == "ddpg" and not self.learn and not self.policy:
            raise ValueError("learn: false without a policy; valid: true, or a file in control.policy")


@dataclass(frozen=True)
class TrainingConfig:
    """How the adapters are trained.

    A step without a reply for `reply_timeout_s` is sent again; a client that makes no progress for
    `progress_deadline_s`, or a server that begins no new epoch for `round_deadline_s`, ends the run by name.
    """

    epochs: int = 8
    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    schedule: Literal["constant", "linear"] = "linear"
    step_policy: Literal["barrier", "arrival"] = "barrier"
    seed: int = 0
    reply_timeout_s: float = 120.0
    progress_deadline_s: float = 300.0
    round_deadline_s: float = 1800.0
    max_refusals: int = 3

    def __post_init__(self) -> None:
        check("epochs", self.epochs, 1)
        check("batch_size", self.batch_size, 1)
        check("learning_rate", self.learning_rate, 0, open_low=True)
        check("weight_decay", self.weight_decay, 0)
        check("clip", self.clip, 0)
        check("seed", self.seed, 0, 2**32 - 1)
        for key in ("reply_timeout_s", "progress_deadline_s", "round_deadline_s"):
            check(key, getattr(self, key), 0, open_low=True)
        check("max_refusals", self.max_refusals, 0)


@dataclass(frozen=True)
class SharedSettings:
    """What server and agents must agree on; the server sends it to every agent that says hello."""

    shape: Shape = "standard"
    cut: int = 2
    tail: int = 0
    lora: LoraSettings = field(default_factory=LoraSettings)
    streams: StreamsConfig = field(default_factory=StreamsConfig)
    adapters: AdaptersConfig = field(default_factory=AdaptersConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        check_shape(self.shape, self.cut, self.tail)


@dataclass(frozen=True)
class DataConfig:
    """Which texts: a set by name, where its original files (or its hub copy) lie, and how they become shards.

    `train`, `validation` and `test` are numbers of samples; 0 takes all that there are.
    """

    set: Literal["builtin", "e2e", "dart", "webnlg"] = "builtin"
    path: str = ""
    hub: str = ""
    train: int = 0
    validation: int = 0
    test: int = 0
    shards: Literal["iid", "dirichlet"] = "iid"
    alpha: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("train", "validation", "test"):
            check(key, getattr(self, key), 0)
        check("alpha", self.alpha, 0, open_low=True)
        check("seed", self.seed, 0, 2**32 - 1)
        if self.path and self.hub:
            raise ValueError("hub: give either data.path or data.hub, not both")


@dataclass(frozen=True)
class EvaluationConfig:
    """What the server measures: perplexity on the validation set, BLEU on distinct test inputs at the end."""

    every: int = 1
    batch_size: int = 16
    bleu: int = 100
    max_new_tokens: int = 60

    def __post_init__(self) -> None:
        check("every", self.every, 1)
        check("batch_size", self.batch_size, 1)
        check("bleu", self.bleu, 0)
        check("max_new_tokens", self.max_new_tokens, 1)
