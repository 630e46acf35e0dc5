"""The synchronous part of an agent: head and, in the U-shape, tail, forward and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from splitcom.adapters import AdapterState, adapter_parameters, adapter_state, load_adapter_state
from splitcom.batch import Samples, pad, unpad
from splitcom.config import TrainingConfig
from splitcom.data.batches import Batch
from splitcom.evaluate import target_loss
from splitcom.optimizer import Optimizer
from splitcom.partition import Head, Part, Tail


class PartTrainer:
    """What head and tail have in common: a part, and the optimiser of its adapter."""

    def __init__(self, part: Part, training: TrainingConfig, total_steps: int) -> None:
        self.part = part.train()
        self.device = next(part.parameters()).device
        self.optimizer = Optimizer(adapter_parameters(part), training, total_steps)

    def adapter(self) -> AdapterState:
        """A copy of the part's adapter."""
        return adapter_state(self.part)

    def load_adapter(self, state: AdapterState) -> None:
        """Take over the mean of all clients; the optimiser's moments stay as they are."""
        load_adapter_state(self.part, state)


class HeadTrainer(PartTrainer):
    """Runs and trains the head; knows steps and tensors, nothing of the network."""

    def __init__(self, head: Head, training: TrainingConfig, total_steps: int, trained: bool) -> None:
        """`trained = false` keeps the head frozen: no graph is built and no gradient is expected."""
        super().__init__(head, training, total_steps)
        self.head = head
        self.trained = trained
        self._graphs: dict[int, torch.Tensor] = {}

    def forward(self, step: int, batch: Batch) -> Samples:
        """The head's output per sample, (length - 1, C): a sample's last token predicts nothing and stays here.

        The graph is kept under `step` until `backward` or `forget`.
        """
        tokens = torch.from_numpy(batch.tokens).to(self.device)
        with torch.set_grad_enabled(self.trained):
            hidden = self.head(tokens)
        if self.trained:
            self._graphs[step] = hidden
        return unpad(hidden, [int(length) - 1 for length in batch.lengths])

    def backward(self, step: int, gradients: Sequence[np.ndarray]) -> float:
        """One step of the head's adapter from per-sample gradients (length - 1, C); returns the gradient's norm.

        The server computed the gradient at the tensor it holds, which for a skipped sample is an older one; going
        back through the current graph is the method's approximation (SplitCom, temporal compression).
        """
        hidden = self._graphs.pop(step)
        hidden.backward(pad(gradients, hidden.shape[1], hidden.device, hidden.dtype))  # type: ignore[no-untyped-call]
        return self.optimizer.step()

    def forget(self, step: int) -> None:
        """Free the graph of a step that gets no gradient."""
        self._graphs.pop(step, None)


class TailTrainer(PartTrainer):
    """Runs and trains the tail of the U-shape, where the labels are: one step at a time."""

    def __init__(self, tail: Tail, training: TrainingConfig, total_steps: int) -> None:
        super().__init__(tail, training, total_steps)
        self.tail = tail
        self.dtype = next(tail.parameters()).dtype

    def loss(self, batch: Batch, outputs: Sequence[np.ndarray]) -> tuple[float, int, Samples]:
        """(mean loss, target tokens, gradients (length - 1, C)) of a batch, given the body's output per sample.

        For a sample that the server skipped the output is an older one (SplitCom's approximation, as in the head). The
        adapter's own gradients wait for `step` or `forget`.
        """
        self.optimizer.clear()
        hidden = pad(outputs, batch.tokens.shape[1], self.device, self.dtype).requires_grad_()
        loss = target_loss(self.tail, hidden, torch.from_numpy(batch.labels).to(self.device))
        loss.backward()  # type: ignore[no-untyped-call]
        assert hidden.grad is not None
        if not bool(torch.isfinite(hidden.grad).all()):
            raise self.optimizer.diverged()
        gradients = unpad(hidden.grad, [len(output) for output in outputs])
        return float(loss.detach()), int((batch.labels[:, 1:] >= 0).sum()), gradients

    def step(self) -> float:
        """Step the tail's adapter by the gradients of the last `loss`; returns their norm."""
        return self.optimizer.step()

    def forget(self) -> None:
        """Drop the gradients of the last `loss`: the server did not take the step."""
        self.optimizer.clear()
