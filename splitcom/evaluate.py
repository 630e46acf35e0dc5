"""The whole model put together from its parts, for evaluation: loss on given texts, and greedy generation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import DynamicCache

from splitcom.adapters import AdapterState, adapter_state, load_adapter_state
from splitcom.data.batches import IGNORED
from splitcom.partition import Body, Head, Part, Tail


def target_loss(tail: Tail, hidden: torch.Tensor, labels: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """The tail's cross-entropy of next tokens: hidden (B, T, C) at t against labels (B, T) at t + 1, IGNORED left out.

    Logits are worked out only where there is a target, which spares most of the output layer. The log-likelihoods then
    go back to their places among all B * T, because the sum over them depends in its last bits on where they stand:
    so split training agrees bit for bit with the loss of transformers, which works all logits out.
    """
    shifted = nn.functional.pad(labels, (0, 1), value=IGNORED)[..., 1:].reshape(-1)
    rows = (shifted != IGNORED).nonzero().squeeze(1)
    likelihoods = tail(hidden, rows=rows).float().log_softmax(-1).gather(1, shifted[rows].unsqueeze(1))
    placed = likelihoods.new_zeros(len(shifted), 1).index_copy(0, rows, likelihoods)
    only = torch.where(shifted == IGNORED, IGNORED, 0)
    return nn.functional.nll_loss(placed, only, ignore_index=IGNORED, reduction=reduction)


class SplitModel:
    """Head, body and tail in one process; borrows the parts and leaves their frozen weights alone."""

    def __init__(self, head: Head, body: Body, tail: Tail) -> None:
        self.head, self.body, self.tail = head, body, tail

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts in the order of the blocks."""
        return self.head, self.body, self.tail

    def adapter(self) -> AdapterState:
        """A copy of the whole model's adapter."""
        return {name: tensor for part in self.parts for name, tensor in adapter_state(part).items()}

    def load_adapter(self, state: AdapterState) -> None:
        """Overwrite the tensors that `state` has, whichever part they are in, and leave the others."""
        for part in self.parts:
            own = adapter_state(part)
            if not own.keys().isdisjoint(state):
                load_adapter_state(part, {name: state.get(name, tensor) for name, tensor in own.items()})

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids (B, T), padded behind -> logits (B, T, V)."""
        result: torch.Tensor = self.tail(self.body(self.head(tokens)))
        return result

    @torch.no_grad()
    def loss(self, tokens: torch.Tensor, labels: torch.Tensor) -> tuple[float, int]:
        """(summed negative log likelihood in nats, number of target tokens) of a batch (B, T)."""
        with _evaluating(self.head, self.body, self.tail):
            total = target_loss(self.tail, self.body(self.head(tokens)), labels, reduction="sum")
        return float(total), int((labels[:, 1:] != IGNORED).sum())

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, eos: int) -> list[list[int]]:
        """The most likely continuation of each prompt, token by token, without the closing `eos`.

        Prompts are padded in front so that all samples append at the same place; each part keeps its own cache.
        Generation stops at the model's last position.
        """
        longest = max(len(prompt) for prompt in prompts)
        room = min(max_new_tokens, self.head.config.max_position_embeddings - longest)
        tokens = torch.tensor([[eos] * (longest - len(p)) + list(p) for p in prompts], device=_device(self.head))
        keys = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=tokens.device)
        outputs: list[list[int]] = [[] for _ in prompts]
        done = [False] * len(prompts)
        caches = (DynamicCache(), DynamicCache(), DynamicCache())
        with _evaluating(self.head, self.body, self.tail):
            for _ in range(room):
                positions = (keys.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
                hidden = self.head(tokens, caches[0], keys, positions)
                hidden = self.body(hidden, caches[1], keys)
                hidden = hidden if self.tail.blocks() else hidden[:, -1:]  # norm and output layer: last position only
                chosen = self.tail(hidden, caches[2], keys)[:, -1].argmax(-1)
                for i, token in enumerate(chosen.tolist()):
                    done[i] = done[i] or token == eos
                    if not done[i]:
                        outputs[i].append(token)
                if all(done):
                    break
                tokens = chosen.unsqueeze(1)
                keys = torch.cat([keys, torch.ones_like(tokens)], 1)
        return outputs


class _evaluating:
    """Evaluation mode for the parts inside the block, each part's earlier mode after it."""

    def __init__(self, *parts: nn.Module) -> None:
        self.parts = [(part, part.training) for part in parts]

    def __enter__(self) -> None:
        for part, _ in self.parts:
            part.eval()

    def __exit__(self, *exception: object) -> None:
        for part, mode in self.parts:
            part.train(mode)


def _device(head: Head) -> torch.device:
    return next(head.parameters()).device
