"""The training server as a process: its connection to the broker and its run directory."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tomli_w
import torch

from broker.client import MqttChannel
from broker.engines import is_secure, parse_url
from broker.program import Emit
from training_server.config import ServerConfig
from training_server.run import Run
from training_server.server import Server


async def serve(config: ServerConfig, emit: Emit) -> None:
    """Carry out one run; its directory is readable at every moment and complete at the end.

    The broker is asked first, so that one that cannot be reached leaves no directory behind.
    """
    torch.set_num_threads(config.threads)
    host, port = parse_url(config.broker)
    compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
    channel = MqttChannel(config.run, "server", host, port, config.transport, is_secure(config.broker))
    state: Run | None = None
    try:
        async with channel:
            state = await asyncio.get_running_loop().run_in_executor(compute, Run, config, Path(config.out))
            scenario = state.directory / "config.toml"
            if not scenario.exists():  # whoever started a whole run has written it, with its own share
                scenario.write_text(tomli_w.dumps(config.scenario()))
            emit({"event": "ready", "run": config.run, "clients": config.clients})
            server = Server(config, channel, state, compute, emit)
            await server.run()
            if state.evaluation.test:
                emit({"event": "evaluating", "text": f"generating {len(state.evaluation.test)} texts"})
            # While the channel is open, so that its parting words are in the count of no transport.
            summary = await server.compute(state.finish, channel)
        (state.directory / "server.json").write_text(json.dumps(summary, indent=1) + "\n")
        emit({"event": "summary", **summary})
    except BaseException:
        if state is not None:
            quality = {"perplexity_before": state.perplexity_before, "perplexity": state.perplexity}
            emit({"event": "stopped", "steps": state.steps, **quality, **state.records(channel)})
        raise
    finally:
        if state is not None:
            state.close()
        compute.shutdown(wait=False, cancel_futures=True)
