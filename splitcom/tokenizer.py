"""The tokenizer of a base."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer

from splitcom.errors import PartitionError


def load_tokenizer(base: str) -> Any:
    """The base's tokenizer; PartitionError when it has none that can be used.

    Where a GPT-2 base has no tokenizer's files, transformers makes one up that knows no token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise PartitionError(f"model.base: {base} has no usable tokenizer: {str(error).splitlines()[0]}") from None
    if tokenizer.eos_token_id is None or not tokenizer.encode("a", add_special_tokens=False):
        raise PartitionError(
            f"model.base: {base} has no usable tokenizer; valid: a base with one that has an eos token"
        )
    return tokenizer
