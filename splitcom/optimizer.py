"""How one part's adapter is stepped: AdamW, a learning rate that may fall, and clipping of that part alone."""

from __future__ import annotations

import math

import torch
from torch import nn

from splitcom.config import TrainingConfig
from splitcom.errors import SplitComError


class Optimizer:
    """AdamW over one part's adapter; its moments never leave the process that holds the part."""

    def __init__(self, parameters: list[nn.Parameter], training: TrainingConfig, total_steps: int) -> None:
        """`total_steps` is the length of the linear schedule; the constant one ignores it."""
        self.parameters = parameters
        self.training = training
        self.total_steps = max(1, total_steps)
        self.steps = 0
        self._adam = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)

    def step(self) -> float:
        """Clip, step and clear the gradients; returns the gradient's norm before clipping.

        Raises SplitComError, with the adapter untouched, when the gradient is not finite.
        """
        limit = self.training.clip if self.training.clip > 0 else float("inf")
        norm = float(nn.utils.clip_grad_norm_(self.parameters, limit))
        if not math.isfinite(norm):
            raise self.diverged()
        for group in self._adam.param_groups:
            group["lr"] = self.training.learning_rate * self._factor()
        self._adam.step()
        self.clear()
        self.steps += 1
        return norm

    def clear(self) -> None:
        """Forget the gradients."""
        self._adam.zero_grad(set_to_none=True)

    def diverged(self) -> SplitComError:
        """The error for a gradient that is not finite."""
        return SplitComError(
            f"training diverged: the gradient of step {self.steps} is not finite; "
            "try a lower training.learning_rate, or model.dtype = float32"
        )

    def _factor(self) -> float:
        if self.training.schedule == "constant":
            return 1.0
        return max(0.0, 1.0 - self.steps / self.total_steps)
