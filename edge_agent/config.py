"""What an agent is told; everything that it must share with the server comes from the server itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.channel import ChannelConfig
from splitcom.config import BaseConfig, DataConfig, check


@dataclass(frozen=True)
class AgentConfig:
    """One agent: its name in the run, the broker it talks to, its base and its shard of the data.

    `shard` of `shards` counts from 0; one shard is the whole training set, for a device with texts of its own.
    `keep_labels` makes it leave a run whose server asks for labels, which every shape but the U-shape does. `out` is
    the directory of its ledger; empty writes none.
    """

    run: str = "run"
    name: str = "agent0"
    broker: str = "mqtt://127.0.0.1:1883"
    out: str = ""
    threads: int = 1
    shard: int = 0
    shards: int = 1
    keep_labels: bool = False
    model: BaseConfig = field(default_factory=BaseConfig)
    data: DataConfig = field(default_factory=DataConfig)
    transport: ChannelConfig = field(default_factory=ChannelConfig)

    def __post_init__(self) -> None:
        check("threads", self.threads, 1)
        check("shards", self.shards, 1)
        check("shard", self.shard, 0, self.shards - 1)
