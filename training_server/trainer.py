"""The synchronous part of the server: body (and tail) forward, loss, backward, one step of the server-side adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from splitcom.adapters import AdapterState, adapter_parameters, adapter_state
from splitcom.batch import Samples, pad, unpad
from splitcom.config import TrainingConfig
from splitcom.data.batches import IGNORED
from splitcom.evaluate import target_loss
from splitcom.optimizer import Optimizer
from splitcom.partition import DTYPES, Body, Tail

Target = tuple[int, np.ndarray]  # position of the first target, ids (n,)


@dataclass(frozen=True)
class ClientBatch:
    """One client's part of a step: activations (T_i, C) in front of block `cut`, and the targets of each sample.

    In the U-shape the targets stay with the client: None.
    """

    activations: Sequence[np.ndarray]
    targets: Sequence[Target] | None
    cut: int

    @property
    def target_tokens(self) -> int:
        """How many tokens of the batch count in the loss, where the targets are known."""
        return sum(len(ids) for _, ids in self.targets or ())


@dataclass(frozen=True)
class TailGradient:
    """U-shape: what a client's tail gave: gradients (T_i, C) of its mean loss over its target tokens."""

    gradients: Sequence[np.ndarray]
    loss: float
    target_tokens: int


@dataclass(frozen=True)
class StepResult:
    """What a step gave: the mean loss over its target tokens, the gradient's norm, per client the gradients."""

    loss: float
    norm: float
    target_tokens: int
    gradients: list[Samples]


@dataclass(frozen=True)
class Group:
    """The clients of a step that cut at the same block: their places in the step, and their activations as a leaf."""

    cut: int
    members: list[int]
    hidden: torch.Tensor


@dataclass(frozen=True)
class Forward:
    """U-shape: a step on its way: the body's output per group, with its graph, and the adapter's version behind it."""

    batches: Sequence[ClientBatch]
    groups: list[Group]
    outputs: list[torch.Tensor]
    version: int


class BodyTrainer:
    """Runs and trains the body, and in the standard shape the tail, on the batches of one step, whoever sent them.

    Clients that cut at different blocks share the body's frozen weights and its adapter: each group goes through the
    blocks behind its own cut, gradients add up, and the adapter is stepped once.
    """

    def __init__(self, body: Body, tail: Tail | None, training: TrainingConfig, dtype: str) -> None:
        self.body, self.tail = body.train(), tail.train() if tail is not None else None
        self.device = next(body.parameters()).device
        self.dtype = DTYPES[dtype]
        self.training = training
        trained = adapter_parameters(body) + (adapter_parameters(tail) if tail is not None else [])
        self.optimizer = Optimizer(trained, training, 1)

    def plan(self, total_steps: int) -> None:
        """Set the length of the learning-rate schedule, known once every client has named its shard."""
        self.optimizer.total_steps = max(1, total_steps)

    def step(self, batches: Sequence[ClientBatch], gradients: bool = True) -> StepResult:
        """One optimiser step on the batches, whose targets are known.

        The loss is the mean over all target tokens of the step. A client's gradient is rescaled to the mean over its
        own tokens, so that its adapter learns as if it had trained alone. `gradients = false` (a frozen head) stops
        the backward pass at the body's first adapter.
        """
        assert self.tail is not None, "the tail is with the clients"
        total = sum(batch.target_tokens for batch in batches)
        groups, mean = self._groups(batches, gradients), 0.0
        for group in groups:
            targets = [target for i in group.members for target in batches[i].targets or ()]
            labels = _labels(targets, group.hidden.shape[1], self.device)
            share = sum(batches[i].target_tokens for i in group.members) / total
            loss = target_loss(self.tail, self.body(group.hidden, first=group.cut), labels) * share
            loss.backward()  # type: ignore[no-untyped-call]
            mean += float(loss.detach())
        return self._update(batches, groups, [batch.target_tokens for batch in batches], mean)

    def forward(self, batches: Sequence[ClientBatch], gradients: bool = True) -> Forward:
        """U-shape: the body's forward pass; `outputs_of` gives what goes to the clients, `backward` the rest."""
        groups = self._groups(batches, gradients)
        outputs = [self.body(group.hidden, first=group.cut) for group in groups]
        return Forward(batches, groups, outputs, self._version())

    def outputs_of(self, forward: Forward) -> list[Samples]:
        """The body's output for each client of the step, per sample (T_i, C)."""
        return self._per_client(forward.batches, forward.groups, [output.detach() for output in forward.outputs])

    def backward(self, forward: Forward, answers: Sequence[TailGradient | None], gradients: bool = True) -> StepResult:
        """U-shape: one optimiser step from the clients' gradients; None for a client that gave its step up.

        Where the adapter has changed since the forward pass (policy `arrival`), its graph no longer holds and the pass
        is repeated: the gradient then is of an output that is slightly older, and was computed under another draw of
        LoRA dropout.
        """
        if forward.version != self._version():
            forward = self.forward(forward.batches, gradients)
        tokens = [answer.target_tokens if answer else 0 for answer in answers]
        total = sum(tokens)
        for group, output in zip(forward.groups, forward.outputs, strict=True):
            whole = torch.zeros_like(output)
            first = 0
            for i in group.members:
                count, answer = len(forward.batches[i].activations), answers[i]
                if answer is not None:
                    rows = pad(answer.gradients, output.shape[1], self.device, self.dtype)
                    whole[first : first + count] = rows if tokens[i] == total else rows * (tokens[i] / total)
                first += count
            if output.requires_grad:
                output.backward(whole)  # type: ignore[no-untyped-call]
        mean = sum(answer.loss * (answer.target_tokens / total) for answer in answers if answer is not None)
        return self._update(forward.batches, forward.groups, tokens, mean)

    def adapter(self) -> AdapterState:
        """A copy of the server-side adapter: the body's, and the tail's where the tail is here."""
        return adapter_state(self.body) | (adapter_state(self.tail) if self.tail is not None else {})

    def _version(self) -> int:
        """Rises with every change in place of the adapter, whoever makes it."""
        return sum(parameter._version for parameter in self.optimizer.parameters)

    def _groups(self, batches: Sequence[ClientBatch], gradients: bool) -> list[Group]:
        groups = []
        for cut in sorted({batch.cut for batch in batches}):
            members = [i for i, batch in enumerate(batches) if batch.cut == cut]
            samples = [sample for i in members for sample in batches[i].activations]
            # One position more than is sent: a sample's last token predicts nothing, and stays with the client.
            width = max(len(sample) for sample in samples) + 1
            hidden = pad(samples, width, self.device, self.dtype).requires_grad_(gradients)
            groups.append(Group(cut, members, hidden))
        return groups

    def _update(
        self, batches: Sequence[ClientBatch], groups: Sequence[Group], tokens: Sequence[int], loss: float
    ) -> StepResult:
        """Step the adapter by the gradients that have gathered; per client the gradient at its cut."""
        total = sum(tokens)
        found = [group.hidden.grad for group in groups]
        if not all(bool(torch.isfinite(gradient).all()) for gradient in found if gradient is not None):
            raise self.optimizer.diverged()
        norm = self.optimizer.step()
        known = [gradient for gradient in found if gradient is not None]
        if len(known) < len(groups):
            return StepResult(loss, norm, total, [[] for _ in batches])
        scales = [total / own if own and own != total else 1.0 for own in tokens]
        return StepResult(loss, norm, total, self._per_client(batches, groups, known, scales))

    def _per_client(
        self,
        batches: Sequence[ClientBatch],
        groups: Sequence[Group],
        tensors: Sequence[torch.Tensor],
        scales: Sequence[float] | None = None,
    ) -> list[Samples]:
        """Tensors (B, T, C) of the groups as samples of each client, in the order of the batches."""
        result: list[Samples] = [[] for _ in batches]
        for group, tensor in zip(groups, tensors, strict=True):
            first = 0
            for i in group.members:
                lengths = [len(sample) for sample in batches[i].activations]
                rows = tensor[first : first + len(lengths)]
                first += len(lengths)
                if scales is not None and scales[i] != 1.0:
                    rows = rows * scales[i]
                result[i] = unpad(rows, lengths)
        return result


def _labels(targets: Sequence[Target], width: int, device: torch.device) -> torch.Tensor:
    labels = np.full((len(targets), width), IGNORED, np.int64)
    for row, (start, ids) in zip(labels, targets, strict=True):
        row[start : start + len(ids)] = ids
    return torch.from_numpy(labels).to(device)
