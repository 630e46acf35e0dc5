"""An agent as a process: its texts, its connection to the broker, its ledger."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from broker.client import MqttChannel
from broker.engines import is_secure, parse_url
from broker.messages import End
from broker.program import Emit
from edge_agent.agent import Agent
from edge_agent.config import AgentConfig
from splitcom.data.corpus import load
from splitcom.data.sample import Example, tokenize
from splitcom.data.shards import shard
from splitcom.errors import DataError
from splitcom.ledger import Ledger
from splitcom.tokenizer import load_tokenizer
from splitcom.weights import Weights


def shard_examples(config: AgentConfig) -> tuple[list[Example], dict[str, int]]:
    """The agent's own examples as tokens, and what was skipped, by reason."""
    weights = Weights(config.model.base)
    corpus = load(config.data, "train")
    mine = shard(corpus.train, config.shards, config.data)[config.shard]
    examples, skipped = tokenize(mine, load_tokenizer(config.model.base), weights.config.max_position_embeddings)
    if not examples:
        raise DataError(f"data: shard {config.shard} of {config.shards} holds no usable samples")
    return examples, corpus.skipped | skipped


def open_ledger(config: AgentConfig) -> Ledger:
    """The agent's ledger, in its directory if it has one."""
    if not config.out:
        return Ledger(config.name)
    directory = Path(config.out)
    directory.mkdir(parents=True, exist_ok=True)
    return Ledger(config.name, directory / f"ledger-{config.name}.jsonl")


async def take_part(config: AgentConfig, emit: Emit) -> End:
    """Connect, take part in the run to its end, and leave the ledger behind."""
    torch.set_num_threads(config.threads)
    host, port = parse_url(config.broker)
    compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
    channel = MqttChannel(config.run, config.name, host, port, config.transport, is_secure(config.broker))
    ledger: Ledger | None = None
    try:
        examples, skipped = await asyncio.get_running_loop().run_in_executor(compute, shard_examples, config)
        async with channel:
            ledger = open_ledger(config)
            emit({"event": "ready", "name": config.name, "samples": len(examples), "skipped": skipped})
            agent = Agent(config, channel, examples, compute, ledger, emit)
            try:
                return await agent.run()
            finally:
                # Read while the connection is open: afterwards nobody can ask the kernel for its count.
                records = agent.records() | {"tcp": channel.tcp()}
                ledger.row("records", **records)
                emit({"event": "summary", **records})
    finally:
        if ledger is not None:
            ledger.close()
        compute.shutdown(wait=False, cancel_futures=True)
