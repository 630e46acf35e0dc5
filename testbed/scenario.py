"""A scenario: one TOML file, or several laid over each other, that says everything about a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from broker.channel import ChannelConfig
from broker.engines import engine
from broker.errors import SettingsError
from broker.settings import build, load_toml, merge
from edge_agent.config import AgentConfig
from splitcom.config import (
    AdaptersConfig,
    BaseConfig,
    ControlConfig,
    DataConfig,
    EvaluationConfig,
    LoraSettings,
    ModelConfig,
    StreamsConfig,
    TrainingConfig,
    check,
)
from testbed.links.links_config import LinksConfig
from training_server.config import ServerConfig


@dataclass(frozen=True)
class Scenario:
    """Everything about one run. `model.base = "micro"` is the small base that is built on first use."""

    name: str = "splitcom"
    transport: Literal["mqtt", "memory"] = "mqtt"
    broker: str = "embedded"
    clients: int = 3
    agent_threads: int = 1
    server_threads: int = 2
    model: ModelConfig = field(default_factory=lambda: ModelConfig(base="micro", cut=1))
    lora: LoraSettings = field(default_factory=LoraSettings)
    streams: StreamsConfig = field(default_factory=StreamsConfig)
    adapters: AdaptersConfig = field(default_factory=AdaptersConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    channel: ChannelConfig = field(default_factory=ChannelConfig)
    links: LinksConfig = field(default_factory=LinksConfig)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", self.name):
            raise ValueError(f"name: {self.name!r}; valid: 1 to 64 of the characters A-Z a-z 0-9 _ . -")
        check("clients", self.clients, 1, 10_000)
        check("agent_threads", self.agent_threads, 1)
        check("server_threads", self.server_threads, 1)
        engine(self.broker, Path())  # names what is wrong with it; nothing is started
        if self.transport == "memory" and self.broker != "embedded":
            raise ValueError(f"broker: {self.broker!r} is of no use without a socket; valid with memory: embedded")
        self._check_links()
        self.server("", Path())  # for what it checks of the whole

    def _check_links(self) -> None:
        """Raise ValueError for links that cannot lie between the agents and the broker."""
        self.links.profiles(self.agents())
        if not self.links.any:
            return
        if self.transport == "memory":
            raise ValueError("links.profile: there is no link in one process; valid with memory: links.backend = none")
        if "://" in self.broker and self.links.backend != "proxy":
            raise ValueError(
                f"links.backend: {self.links.backend} starts the broker itself; valid with {self.broker}: proxy, none"
            )

    def agents(self) -> list[str]:
        """The names of all agents, in order."""
        return [agent_name(number, self.clients) for number in range(self.clients)]

    def server(self, broker: str, out: Path) -> ServerConfig:
        """The training server's share, with its run directory."""
        return ServerConfig(
            run=self.name,
            broker=broker,
            out=str(out),
            clients=self.clients,
            threads=self.server_threads,
            model=self.model,
            lora=self.lora,
            streams=self.streams,
            adapters=self.adapters,
            control=self.control,
            training=self.training,
            data=self.data,
            evaluation=self.evaluation,
            transport=self._channel(),
        )

    def agent(self, number: int, broker: str, out: Path) -> AgentConfig:
        """The share of agent `number`, counted from 0."""
        model = self.model
        return AgentConfig(
            run=self.name,
            name=agent_name(number, self.clients),
            broker=broker,
            out=str(out),
            threads=self.agent_threads,
            shard=number,
            shards=self.clients,
            model=BaseConfig(model.base, model.attention, model.device, model.dtype),
            data=self.data,
            transport=self._channel(),
        )

    def _channel(self) -> ChannelConfig:
        """The channel of server and agents, with the congestion control of the links where they name one."""
        congestion = self.links.congestion_control if self.links.any else ""
        return replace(self.channel, congestion=congestion or self.channel.congestion)

    def with_base(self, base: str) -> Scenario:
        """The same scenario on another base."""
        return replace(self, model=replace(self.model, base=base))


def agent_name(number: int, clients: int) -> str:
    """`agent0`, `agent1`, ... padded so that names sort as numbers do."""
    return f"agent{number:0{len(str(clients - 1))}d}"


def shipped() -> dict[str, Path]:
    """The scenarios that come with the package, by name."""
    folder = Path(str(resources.files("testbed") / "scenarios"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def describe(path: Path) -> str:
    """A scenario file's first comment line, its description."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def read(names: Sequence[str], *layers: Mapping[str, Any]) -> Scenario:
    """Lay scenarios (names or paths) over each other in order, then the layers; SettingsError names what is wrong."""
    tables = []
    for name in names:
        path = shipped().get(name)
        if path is None:
            path = Path(name)
            if not (name.endswith(".toml") or "/" in name):
                raise SettingsError(f"scenario {name!r} is unknown; valid: {', '.join(shipped())}, or a path to a file")
        table = load_toml(path)
        table.setdefault("name", path.stem)
        tables.append(table)
    titles = [table["name"] for table in tables if isinstance(table["name"], str)]
    merged = merge(*tables, {"name": "-".join(titles)} if titles else {}, *layers)
    return build(Scenario, merged)
