"""What the server measures: perplexity on validation texts and BLEU on generated ones, with the mean adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from splitcom.config import EvaluationConfig
from splitcom.data.batches import collate
from splitcom.data.sample import SEPARATOR, Example, Sample
from splitcom.evaluate import SplitModel
from splitcom.metrics import bleu, perplexity

Progress = Callable[[int, int], None]


class Evaluation:
    """Fixed texts and the way they are measured; every call uses the adapters that the model holds then."""

    def __init__(
        self,
        model: SplitModel,
        tokenizer: Any,
        validation: Sequence[Example],
        test: Sequence[Sample],
        config: EvaluationConfig,
        max_tokens: int,
    ) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        # Batches of like lengths waste the least padding; the order does not change a sum of losses.
        self.validation = sorted(validation, key=lambda example: (len(example.tokens), example.id))
        self.test = _distinct(test, tokenizer, config.bleu, max_tokens - config.max_new_tokens)
        self.device = next(model.head.parameters()).device

    def perplexity(self) -> float:
        """exp of the mean loss over all target tokens of the validation set; NaN when it is empty."""
        total, tokens = 0.0, 0
        for first in range(0, len(self.validation), self.config.batch_size):
            batch = collate(self.validation[first : first + self.config.batch_size])
            loss, count = self.model.loss(
                torch.from_numpy(batch.tokens).to(self.device), torch.from_numpy(batch.labels).to(self.device)
            )
            total, tokens = total + loss, tokens + count
        return perplexity(total, tokens) if tokens else float("nan")

    def outputs(self, progress: Progress = lambda done, of: None) -> list[dict[str, Any]]:
        """For each distinct test input a record of the input, the greedy output, and the references."""
        texts = generate(self.model, self.tokenizer, [sample.mr for sample in self.test], self.config, progress)
        pairs = zip(self.test, texts, strict=True)
        return [{"mr": s.mr, "output": text, "references": list(s.references)} for s, text in pairs]

    def bleu(self, progress: Progress = lambda done, of: None) -> tuple[float, list[dict[str, Any]]]:
        """Corpus BLEU of greedy outputs on distinct test inputs (NaN without any), and the outputs themselves."""
        outputs = self.outputs(progress)
        score = bleu([o["output"] for o in outputs], [o["references"] for o in outputs]) if outputs else float("nan")
        return score, outputs


def generate(
    model: SplitModel,
    tokenizer: Any,
    mrs: Sequence[str],
    config: EvaluationConfig,
    progress: Progress = lambda done, of: None,
) -> list[str]:
    """The greedy text for each meaning representation, at most `config.max_new_tokens` long, in batches of like length.

    `progress(done, of)` is called after every batch.
    """
    prompts = [tokenizer.encode(mr + SEPARATOR, add_special_tokens=False) for mr in mrs]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    for first in range(0, len(order), config.batch_size):
        rows = order[first : first + config.batch_size]
        generated = model.generate([prompts[i] for i in rows], config.max_new_tokens, tokenizer.eos_token_id)
        for i, tokens in zip(rows, generated, strict=True):
            texts[i] = tokenizer.decode(tokens).strip()
        progress(min(first + len(rows), len(order)), len(order))
    return texts


def _distinct(samples: Sequence[Sample], tokenizer: Any, limit: int, room: int) -> list[Sample]:
    """The first `limit` samples with different inputs that leave room for an output."""
    seen: dict[str, Sample] = {}
    for sample in samples:
        if len(seen) >= limit:
            break
        if sample.mr not in seen and len(tokenizer.encode(sample.mr + SEPARATOR, add_special_tokens=False)) <= room:
            seen[sample.mr] = sample
    return list(seen.values())
