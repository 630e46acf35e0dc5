"""What the training server is told; what agents must share with it, it sends them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from broker.channel import ChannelConfig
from broker.settings import as_table
from splitcom.config import (
    AdaptersConfig,
    ControlConfig,
    DataConfig,
    EvaluationConfig,
    LoraSettings,
    ModelConfig,
    SharedSettings,
    StreamsConfig,
    TrainingConfig,
    check,
)
from splitcom.control import GATED, gated


@dataclass(frozen=True)
class ServerConfig:
    """One run as the server sees it; `out` is the run directory, `clients` the number of agents to wait for."""

    run: str = "run"
    broker: str = "mqtt://127.0.0.1:1883"
    out: str = "runs/run"
    clients: int = 3
    threads: int = 2
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    streams: StreamsConfig = field(default_factory=StreamsConfig)
    adapters: AdaptersConfig = field(default_factory=AdaptersConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    transport: ChannelConfig = field(default_factory=ChannelConfig)

    def __post_init__(self) -> None:
        check("clients", self.clients, 1, 10_000)
        check("threads", self.threads, 1)
        if self.model.cuts and not self.streams.gradient_down.enabled:
            raise ValueError("model.cuts: heads that are frozen have one cut; valid: none, or gradient_down enabled")
        if self.model.cuts and self.training.step_policy != "barrier":
            raise ValueError("model.cuts: clients that cut elsewhere step together; valid: none, or policy barrier")
        self._check_control()

    def scenario(self) -> dict[str, Any]:
        """The run as a scenario's table, which has no places of this machine."""
        table = as_table(self)
        for key in ("broker", "out"):
            del table[key]
        for key, ours in (("name", "run"), ("channel", "transport"), ("server_threads", "threads")):
            table[key] = table.pop(ours)
        return table

    def _check_control(self) -> None:
        """Raise ValueError for a controller that has nothing to set, or that would not start where it may go."""
        if self.control.kind == "fixed":
            return
        streams = gated(self.streams.of(self.model.shape))
        if not streams:
            raise ValueError(
                f"control.kind: {self.control.kind} has no threshold to set; valid: fixed, or a stream whose gate is "
                f"{' or '.join(GATED)}"
            )
        for name, stream in streams.items():
            if not stream.loose <= stream.threshold <= stream.tight:
                raise ValueError(
                    f"streams.{name}.threshold: {stream.threshold:g} is out of the controller's range; "
                    f"valid: loose to tight, {stream.loose:g} to {stream.tight:g}"
                )

    def shared(self, client: str) -> SharedSettings:
        """What an agent of the run is sent: the same for all but the cut."""
        model = self.model
        cut = model.unequal().get(client, model.cut)
        return SharedSettings(model.shape, cut, model.tail, self.lora, self.streams, self.adapters, self.training)
