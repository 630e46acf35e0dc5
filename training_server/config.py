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

    def scenario(self) -> dict[str, Any]:
        """The run as a scenario's table: what is left when places and threads of this machine are taken away."""
        table = as_table(self)
        for key in ("broker", "out", "threads"):
            del table[key]
        table["name"], table["channel"] = table.pop("run"), table.pop("transport")
        return table

    def shared(self, client: str) -> SharedSettings:
        """What an agent of the run is sent: the same for all but the cut."""
        model = self.model
        cut = model.unequal().get(client, model.cut)
        return SharedSettings(model.shape, cut, model.tail, self.lora, self.streams, self.adapters, self.training)
