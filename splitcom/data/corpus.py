"""The corpus of a run: the pools of the configured set, drawn to the configured sizes."""

from __future__ import annotations

from pathlib import Path

from splitcom.config import DataConfig
from splitcom.data import builtin, hub, readers
from splitcom.data.draws import Draws
from splitcom.data.sample import Corpus, Pair, Pools, Sample, Splits
from splitcom.errors import ConfigError, DataError


def load(config: DataConfig, part: Splits = "all") -> Corpus:
    """The samples that `config` asks for; the splits outside of `part` are empty, and their files stay closed.

    Raises ConfigError for a configuration that fits no set, DataError for a source that is missing, malformed or
    smaller than a limit.
    """
    pools = read(config, part)
    splits = {}
    for name in ("train", "validation", "test"):
        wanted = part == "all" or (name == "train") == (part == "train")
        splits[name] = draw(name, getattr(pools, name), getattr(config, name), config.seed) if wanted else []
    return Corpus(**splits, skipped=pools.skipped, notes=pools.notes)


def read(config: DataConfig, part: Splits) -> Pools:
    """The pools of the configured set, from the generator, the hub or the original files."""
    if config.set == "builtin":
        if config.path or config.hub:
            key = "path" if config.path else "hub"
            raise ConfigError(f"data.{key}: the builtin set is generated; valid: no {key}, or another data.set")
        return builtin.generate(config.seed)
    if config.hub:
        return hub.read(config.set, config.hub, part)
    if not config.path:
        raise ConfigError(f"data.path: empty; valid: a directory with the files of {config.set}, or data.hub")
    return readers.read(config.set, Path(config.path), config.seed, part)


def draw(split: str, pairs: list[Pair], limit: int, seed: int) -> list[Sample]:
    """`limit` pairs (0: all) in an order that depends on the seed and the split only, so a smaller draw is a prefix.

    The id of a sample is its place in that order.
    """
    if limit > len(pairs):
        raise DataError(f"data.{split}: {limit} samples, the set has {len(pairs)}; valid: at most that, 0 for all")
    references: dict[str, list[str]] = {}
    for pair in pairs:
        references.setdefault(pair.mr, []).append(pair.text)
    chosen = Draws(seed, "draw", split).shuffled(pairs)[: limit or len(pairs)]
    return [
        Sample(number, pair.mr, pair.text, pair.group, tuple(dict.fromkeys(references[pair.mr])))
        for number, pair in enumerate(chosen)
    ]
