"""Small runs inside the test's own process, over memory or over a real broker on a free port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from broker.broker_config import BrokerConfig
from broker.client import MqttChannel
from broker.server import Broker
from edge_agent.config import AgentConfig
from testbed.memory import Hub, run_in_memory
from testbed.scenario import Scenario, read


def tiny_scenario(base: Path, *names: str, **layer: Any) -> Scenario:
    """A scenario on the tiny base and a few built-in samples, one thread each."""
    from broker.settings import merge

    small: dict[str, Any] = {
        "name": "tiny",
        "agent_threads": 1,
        "server_threads": 1,
        "model": {"base": str(base), "cut": 2},
        "data": {"set": "builtin", "train": 23, "validation": 8, "test": 4},
        "training": {"epochs": 2, "batch_size": 4, "schedule": "constant"},
        "evaluation": {"bleu": 2, "max_new_tokens": 4},
    }
    return read(names or ["splitcom"], merge(small, layer))


def with_agents(scenario: Scenario, **changes: Any) -> Scenario:
    """The scenario with agents whose own settings differ: what a device says for itself."""

    class Told(Scenario):
        def agent(self, number: int, broker: str, out: Path) -> AgentConfig:
            return replace(super().agent(number, broker, out), **changes)

    return Told(**{field.name: getattr(scenario, field.name) for field in fields(scenario)})


class MqttHub:
    """Channels over a broker at an address, in place of the memory hub's."""

    def __init__(self, scenario: Scenario, host: str, port: int) -> None:
        self.config, self.host, self.port = scenario.channel, host, port

    def agent(self, name: str, run: str) -> MqttChannel:
        return MqttChannel(run, name, self.host, self.port, self.config)

    def server(self, run: str) -> MqttChannel:
        return MqttChannel(run, "server", self.host, self.port, self.config)


def run_tiny(scenario: Scenario, directory: Path, transport: str | Hub = "memory") -> dict[str, Any]:
    """Carry a scenario out over "memory", "mqtt" or a hub of the test's own; returns the summary."""

    directory.mkdir(parents=True)

    async def carry_out() -> dict[str, Any]:
        if transport == "memory":
            return await run_in_memory(scenario, directory, quiet)
        if not isinstance(transport, str):
            return await run_in_memory(scenario, directory, quiet, transport)
        async with Broker(BrokerConfig(port=0)) as broker:
            host, port = broker.address
            return await run_in_memory(scenario, directory, quiet, MqttHub(scenario, host, port))

    return asyncio.run(asyncio.wait_for(carry_out(), 240))


def quiet(process: str, event: Mapping[str, Any]) -> None:
    """Take no notice of events."""


def metrics(directory: Path, row: str) -> list[dict[str, Any]]:
    """The rows of one type in a run's metrics."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["row"] == row]
