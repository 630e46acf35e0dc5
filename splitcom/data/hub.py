"""The same sets from the Hugging Face hub, or from a directory that `DatasetDict.save_to_disk` made of them.

Columns as the hub's own cards list them: tuetschek/e2e_nlg, Yale-LILY/dart and webnlg-challenge/web_nlg.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from splitcom.data import dart, e2e, webnlg
from splitcom.data.readers import assemble
from splitcom.data.sample import Pair, Pools, Splits
from splitcom.errors import ConfigError, DataError, choices

SPLITS = {"train": ("train",), "validation": ("validation", "dev"), "test": ("test",)}
CONFIGURATIONS = {"webnlg": "webnlg_challenge_2017"}
PARQUET = "refs/convert/parquet"


def convert_e2e(row: Mapping[str, Any]) -> list[Pair]:
    """The pair of one row of tuetschek/e2e_nlg."""
    return [e2e.convert(row["meaning_representation"], row["human_reference"])]


def convert_dart(row: Mapping[str, Any]) -> list[Pair]:
    """The pairs of one row of Yale-LILY/dart."""
    return dart.convert(row["tripleset"], records(row["annotations"]))


def convert_webnlg(row: Mapping[str, Any]) -> list[Pair]:
    """The pairs of one row of webnlg-challenge/web_nlg; its challenge entries that have no text give none."""
    triplesets = [record["mtriple_set"] for record in records(row["modified_triple_sets"])]
    texts = [record["text"] for record in records(row["lex"])]
    return webnlg.convert(row["category"], triplesets[0] if triplesets else [], texts)


COLUMNS: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], list[Pair]]]] = {
    "e2e": (("meaning_representation", "human_reference"), convert_e2e),
    "dart": (("tripleset", "annotations"), convert_dart),
    "webnlg": (("category", "modified_triple_sets", "lex"), convert_webnlg),
}


def records(value: Any) -> list[dict[str, Any]]:
    """A list of records, which `datasets` gives either as such or as a record of lists (its old Sequence feature)."""
    if not isinstance(value, dict):
        return list(value)
    length = max((len(column) for column in value.values()), default=0)
    return [{key: column[index] for key, column in value.items() if column} for index in range(length)]


def read(name: str, hub: str, part: Splits = "all") -> Pools:
    """The pairs of the set `name` from `hub`: a repository, `repository:configuration`, or a saved directory.

    Raises ConfigError without the package `datasets`, DataError where the set cannot be had or has other columns.
    """
    if name not in COLUMNS:
        raise ConfigError(f"data.set: {name!r} is not on the hub; {choices(COLUMNS)}")
    splits = fetch(name, hub)
    pairs = {}
    for split, spellings in SPLITS.items():
        found = next((spelling for spelling in spellings if spelling in splits), None)
        if found is None:
            have = ", ".join(sorted(splits)) or "none"
            raise DataError(f"data.hub: {hub} has no split {' or '.join(spellings)}, it has {have}")
        wanted = part == "all" or (split == "train") == (part == "train")
        pairs[split] = convert(name, f"{hub}: {found}", splits[found]) if wanted else []
    return assemble(pairs["train"], pairs["validation"], pairs["test"])


def convert(name: str, place: str, rows: Any) -> list[Pair]:
    """The pairs of one split. Raises DataError naming the row (the first is row 1)."""
    columns, converter = COLUMNS[name]
    if missing := set(columns) - set(rows.column_names):
        raise DataError(f"{place}: no column {', '.join(sorted(missing))}; {choices(columns)}")
    pairs = []
    for number, row in enumerate(rows, start=1):
        try:
            pairs += converter(row)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{place}: row {number}: {error}") from None
    if not any(pair.text for pair in pairs):
        raise DataError(f"{place}: no text in it; valid: a split with at least one")
    return pairs


def fetch(name: str, hub: str) -> Mapping[str, Any]:
    """The splits by name, from the directory or the repository that `hub` names."""
    try:
        import datasets
    except ImportError:
        raise ConfigError("data.hub: needs the package datasets; install splitcom[testbed]") from None
    try:
        splits = datasets.load_from_disk(hub) if Path(hub).is_dir() else download(datasets, name, hub)
    except Exception as error:
        # The library raises many kinds (network, hub, arrow, its own); the user needs the one line of each.
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"data.hub: {hub} cannot be loaded: {type(error).__name__}: {reason}") from error
    if not isinstance(splits, Mapping):
        raise DataError(f"data.hub: {hub} holds a single split; valid: a DatasetDict with train, validation, test")
    return splits


def download(datasets: Any, name: str, hub: str) -> Any:
    """The repository, or its parquet copy where it is one of the script repositories that the library gave up."""
    repository, _, configuration = hub.partition(":")
    configuration = configuration or CONFIGURATIONS.get(name, "")
    try:
        return datasets.load_dataset(repository, configuration or None)
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
    # The hub's converter keeps each configuration in a directory of its name, "default" where there is only one.
    return datasets.load_dataset(repository, data_dir=configuration or None, revision=PARQUET)
