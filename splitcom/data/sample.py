"""What a data set is made of: pairs as read, samples as drawn, and examples as tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

SEPARATOR = " ||"

# Which splits a process needs: an agent trains, a server only evaluates and must not see training texts.
Splits = Literal["all", "train", "evaluation"]


@dataclass(frozen=True)
class Pair:
    """A meaning representation and one text for it, as a reader found them."""

    mr: str
    text: str
    group: str


@dataclass(frozen=True)
class Sample:
    """A drawn pair under an id that never changes during a run; training ids are the keys of every cache.

    `references` are all texts that the split has for the same meaning representation, this one's included.
    """

    id: int
    mr: str
    text: str
    group: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Pools:
    """Everything that a set has, before any limit: pairs per split, what was left out, and what the user must know."""

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]
    skipped: dict[str, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """The samples of a run. `skipped` counts what was left out, by reason; `notes` belong beside every result."""

    train: list[Sample]
    validation: list[Sample]
    test: list[Sample]
    skipped: dict[str, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Example:
    """A sample as tokens (T,) int32: the prompt in [0, start), then the target, which alone carries loss."""

    id: int
    tokens: NDArray[np.int32]
    start: int


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends every target."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The token ids of a text."""


def pair(mr: str, text: str | None, group: str) -> Pair:
    """A pair with every run of white space made one space; a null text becomes an empty one.

    Raises ValueError for text that no file could hold: JSON can spell half a surrogate pair.
    """
    made = Pair(" ".join(mr.split()), " ".join((text or "").split()), group.strip())
    for field in (made.mr, made.text, made.group):
        field.encode()
    return made


def triples(parts: Iterable[Sequence[str]]) -> str:
    """The meaning representation of (subject, predicate, object) triples, with spaces for underscores."""
    return " && ".join(" | ".join(part).replace("_", " ") for part in parts)


def tokenize(samples: Iterable[Sample], tokenizer: Tokenizer, max_tokens: int) -> tuple[list[Example], dict[str, int]]:
    """`mr || text <eos>` as tokens, and how many samples were skipped for having more than `max_tokens`.

    Prompt and target are encoded apart, so that a prompt has the same tokens in training and in generation:
    encode(mr + " ||"), then encode(" " + text) + [eos]. Raises ValueError if the tokenizer has no eos token.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ValueError("tokenizer: it has no eos token; valid: a tokenizer whose eos_token is set")
    prompts: dict[str, list[int]] = {}
    examples, long = [], 0
    for sample in samples:
        if sample.mr not in prompts:
            prompts[sample.mr] = tokenizer.encode(sample.mr + SEPARATOR, add_special_tokens=False)
        prompt = prompts[sample.mr]
        tokens = [*prompt, *tokenizer.encode(" " + sample.text, add_special_tokens=False), eos]
        if len(tokens) > max_tokens:
            long += 1
        else:
            examples.append(Example(sample.id, np.array(tokens, dtype=np.int32), len(prompt)))
    return examples, {f"longer than {max_tokens} tokens": long} if long else {}
