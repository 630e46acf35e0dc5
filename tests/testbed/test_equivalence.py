"""Split training is training: bit for bit with one client, to rounding with three.

The references below use torch, transformers and peft alone. From our packages they get what any fair comparison must
share: the tokens of the batches and the first adapter.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from edge_agent.program import shard_examples
from splitcom.adapters import export
from splitcom.config import LoraSettings
from splitcom.data.batches import collate, epoch_batches
from splitcom.optimizer import Optimizer
from testbed.scenario import Scenario, agent_name
from tests.runs import metrics, run_tiny, tiny_scenario
from tests.splitcom.test_adapters import adapted, whole_state

LOSSLESS = {
    "activation_up": {"gate": "none", "codec": "fp32", "lossless": "zstd"},
    "gradient_down": {"gate": "none", "codec": "fp32", "lossless": "lz4"},
    "activation_down": {"gate": "none", "codec": "fp32", "lossless": "none"},
    "gradient_up": {"gate": "none", "codec": "fp32", "lossless": "zstd"},
}
SHAPES = {"standard": {"shape": "standard", "tail": 0}, "u": {"shape": "u", "tail": 1}}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums in another order give other bits, and torch's order depends on its threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def whole_model(scenario: Scenario, directory: Path) -> Any:
    """The whole model under plain PEFT, with the first adapter of the run."""
    base = scenario.model.base
    first = whole_state(adapted(Path(base), scenario.model.cut, seed=scenario.training.seed))
    export(first, scenario.lora, base, directory)
    model = AutoModelForCausalLM.from_pretrained(base)
    return peft.PeftModel.from_pretrained(model, directory, is_trainable=True).train()


def client_batches(scenario: Scenario, number: int, epoch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The token ids and labels that an agent trains on in an epoch."""
    agent = scenario.agent(number, "mqtt://127.0.0.1:0", Path())
    examples, _ = shard_examples(replace(agent, out=""))
    training = scenario.training
    batches = epoch_batches(examples, training.batch_size, training.seed, epoch, agent.name)
    return [(torch.from_numpy(b.tokens), torch.from_numpy(b.labels)) for b in map(collate, batches)]


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """Adapter parameters by whole-model name."""
    return {
        name.removeprefix("base_model.model.").replace(".default.", "."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def parts_of(names: Iterable[str], scenario: Scenario, blocks: int = 4) -> list[list[str]]:
    """The adapter tensors of head, body and tail, each sorted by name."""
    cut, tail = scenario.model.cut, blocks - scenario.model.tail
    parts: list[list[str]] = [[], [], []]
    for name in sorted(names):
        block = int(name.split(".")[2])
        parts[0 if block < cut else 1 if block < tail else 2].append(name)
    return parts


def adamw(parameters: Any, scenario: Scenario) -> torch.optim.AdamW:
    training = scenario.training
    return torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)


def exported(directory: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(Path(directory) / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("transport", ["memory", "mqtt"])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_client_with_lossless_frames_equals_plain_peft_bit_for_bit(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str, shape: str
) -> None:
    scenario = tiny_scenario(tiny_base, clients=1, streams=LOSSLESS, model=SHAPES[shape])
    recorded: list[list[torch.Tensor]] = []
    step = Optimizer.step

    def recording(self: Optimizer) -> float:
        recorded.append([parameter.grad.clone() for parameter in self.parameters])
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", recording)
        summary = run_tiny(scenario, tmp_path / "run", transport)

    model = whole_model(scenario, tmp_path / "first")
    parameters = trainable(model)
    head, body, tail = parts_of(parameters, scenario)
    optimizer = adamw([parameters[name] for name in head + body + tail], scenario)
    losses, gradients = [], []
    for epoch in range(scenario.training.epochs):
        for ids, labels in client_batches(scenario, 0, epoch):
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            # The server steps before the client does, the tail before the head; each part is clipped alone.
            for names in filter(None, (body, tail, head)):
                gradients.append([parameters[name].grad.clone() for name in names])
                torch.nn.utils.clip_grad_norm_([parameters[name] for name in names], scenario.training.clip)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))

    assert [row["loss"] for row in metrics(tmp_path / "run", "step")] == losses
    assert len(recorded) == len(gradients) > 4
    for ours, theirs in zip(recorded, gradients, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    trained = exported(str(tmp_path / "run" / "adapter"))
    assert all(torch.equal(trained[name], parameter) for name, parameter in parameters.items())
    assert summary["events"] == {}


def federated_reference(scenario: Scenario, first: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses and the final adapter of a run, from one plain PEFT model per client, each client's batch on its own.

    A client has the adapters of its own blocks, the server those of all others, in copies that are kept equal.
    """
    clients, cut, tail = scenario.clients, scenario.model.cut, 4 - scenario.model.tail
    cuts = [scenario.model.unequal().get(agent_name(i, clients), cut) for i in range(clients)]
    models = [first, *(copy.deepcopy(first) for _ in range(clients - 1))]
    copies = [trainable(model) for model in models]
    blocks = {name: int(name.split(".")[2]) for name in sorted(copies[0])}
    heads = [[name for name in blocks if blocks[name] < cut] for cut in cuts]
    tails = [name for name in blocks if blocks[name] >= tail]
    server = {n: torch.nn.Parameter(copies[0][n].detach().clone()) for n in blocks if min(cuts) <= blocks[n] < tail}
    groups = [
        [[own[n] for n in part] for part in (head, tails) if part] for own, head in zip(copies, heads, strict=True)
    ]
    optimizers = [adamw([p for group in parts for p in group], scenario) for parts in groups]
    body = adamw(list(server.values()), scenario)
    clip, losses = scenario.training.clip, []
    sizes = [len(shard_examples(scenario.agent(i, "mqtt://127.0.0.1:0", Path()))[0]) for i in range(clients)]
    for epoch in range(scenario.training.epochs):
        shards = [client_batches(scenario, number, epoch) for number in range(clients)]
        for step in range(max(map(len, shards))):
            members = [(i, shards[i][step]) for i in range(clients) if step < len(shards[i])]
            counts = {i: int((labels[:, 1:] >= 0).sum()) for i, (_, labels) in members}
            total, mean = sum(counts.values()), 0.0
            for i, (ids, labels) in members:
                loss = models[i](input_ids=ids, labels=labels).loss
                loss.backward()
                mean += float(loss.detach()) * counts[i] / total
                for name, parameter in server.items():
                    if blocks[name] >= cuts[i]:
                        share = copies[i][name].grad * (counts[i] / total)
                        parameter.grad = share if parameter.grad is None else parameter.grad + share
                        copies[i][name].grad = None
                for group in groups[i]:
                    torch.nn.utils.clip_grad_norm_(group, clip)
                optimizers[i].step()
                optimizers[i].zero_grad()
            losses.append(mean)
            torch.nn.utils.clip_grad_norm_(list(server.values()), clip)
            body.step()
            body.zero_grad()
            spread(server, copies, cuts, blocks)
        with torch.no_grad():
            for name in blocks:
                holders = [(sizes[i], copies[i][name]) for i in range(clients) if name in heads[i] or name in tails]
                left = sum(sizes[i] for i in range(clients) if blocks[name] >= cuts[i])
                if holders and name in server:
                    holders.append((left, server[name]))
                if not holders:
                    continue
                average = sum(tensor * (n / sum(sizes)) for n, tensor in holders)
                for _, tensor in holders:
                    tensor.copy_(average)
            spread(server, copies, cuts, blocks)
    return losses, {name: copies[0][name].detach() for name in blocks}


def spread(server: Any, copies: Any, cuts: list[int], blocks: dict[str, int]) -> None:
    """Copy the server's adapter to every model whose client leaves the block to the server."""
    with torch.no_grad():
        for name, parameter in server.items():
            for cut, own in zip(cuts, copies, strict=True):
                if blocks[name] >= cut:
                    own[name].copy_(parameter)


@pytest.mark.parametrize(
    "model",
    [
        *SHAPES.values(),
        pytest.param({"cuts": ["agent0=1", "agent2=3"]}, marks=pytest.mark.slow),
        pytest.param({**SHAPES["u"], "cuts": ["agent1=1"]}, marks=pytest.mark.slow),
    ],
)
def test_three_clients_equal_a_reference_in_one_process_to_rounding(
    tiny_base: Path, tmp_path: Path, model: dict[str, Any]
) -> None:
    """The reference runs each client's batch on its own, ours runs them concatenated and padded to one length.

    Sums over tokens then go in another order, which float32 rounds differently: the loss agrees to 1e-5. Adam divides
    by the root of the second moment, so where a gradient is next to nothing its rounding decides the direction of a
    whole step; over these few steps the adapters still agree to 1e-3 of their norm.
    """
    scenario = tiny_scenario(tiny_base, clients=3, streams=LOSSLESS, model=model)
    run_tiny(scenario, tmp_path / "run")
    losses, adapter = federated_reference(scenario, whole_model(scenario, tmp_path / "first"))
    found = [row["loss"] for row in metrics(tmp_path / "run", "step")]
    assert found == pytest.approx(losses, abs=1e-5)
    trained = exported(str(tmp_path / "run" / "adapter"))
    for name, expected in adapter.items():
        assert float((trained[name] - expected).norm()) <= 1e-3 * float(expected.norm()), name


def test_memory_and_mqtt_give_the_same_bytes_losses_and_adapters(tiny_base: Path, tmp_path: Path) -> None:
    scenario = tiny_scenario(
        tiny_base,
        clients=3,
        streams={"activation_up": {"threshold": 0.9}},
        channel={"chunk_bytes": 2048, "window": 2, "max_message_bytes": 2**26},
    )
    runs = {transport: run_tiny(scenario, tmp_path / transport, transport) for transport in ("memory", "mqtt")}
    for way in ("up", "down"):
        memory, mqtt = (runs[transport][way] for transport in ("memory", "mqtt"))
        for key in ("kinds", "body_bytes", "envelope_bytes", "chunks", "messages", "repeated_bytes"):
            assert memory[key] == mqtt[key], (way, key)
        assert memory["repeated_bytes"] == 0
        assert sum(memory["kinds"].values()) == memory["body_bytes"]
    losses = [[row["loss"] for row in metrics(tmp_path / transport, "step")] for transport in runs]
    assert losses[0] == losses[1]
    adapters = [(tmp_path / transport / "adapter" / "adapter_model.safetensors").read_bytes() for transport in runs]
    assert adapters[0] == adapters[1]
    assert runs["memory"]["skip_ratio"] == runs["mqtt"]["skip_ratio"] > 0


def test_the_exported_adapter_gives_the_split_runs_logits_under_peft(tiny_base: Path, tmp_path: Path) -> None:
    scenario = tiny_scenario(tiny_base, clients=2)
    summary = run_tiny(scenario, tmp_path / "run")
    model = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_base), tmp_path / "run" / "adapter"
    ).eval()
    from splitcom.data.corpus import load
    from splitcom.data.sample import tokenize
    from tests.bases import make_tokenizer

    examples, _ = tokenize(load(scenario.data).validation, make_tokenizer(), 256)
    total, count = 0.0, 0
    for example in examples:
        batch = collate([example])
        with torch.no_grad():
            loss = model(input_ids=torch.from_numpy(batch.tokens), labels=torch.from_numpy(batch.labels)).loss
        tokens = len(example.tokens) - example.start
        total, count = total + float(loss) * tokens, count + tokens
    assert summary["perplexity"] == pytest.approx(float(torch.tensor(total / count).exp()), rel=1e-5)
    assert agent_name(1, 2) == "agent1"
    assert LoraSettings() == scenario.lora
