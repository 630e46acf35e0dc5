"""The original files of E2E, DART and WebNLG in a directory: which file is which split, and what stands in for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from splitcom.data import dart, e2e, webnlg
from splitcom.data.draws import Draws
from splitcom.data.sample import Pair, Pools, Splits
from splitcom.errors import ConfigError, DataError, choices


@dataclass(frozen=True)
class Layout:
    """The files of a set; without the `train` file, `instead` is (training file, file cut in validation and test)."""

    parse: Callable[[Path], list[Pair]]
    train: str
    validation: str
    test: str
    instead: tuple[str, str] | None = None


LAYOUTS = {
    "e2e": Layout(e2e.parse, "trainset.csv", "devset.csv", "testset_w_refs.csv", ("devset.csv", "testset_w_refs.csv")),
    "dart": Layout(
        dart.parse,
        "dart-v1.1.1-full-train.json",
        "dart-v1.1.1-full-dev.json",
        "dart-v1.1.1-full-test.json",
        ("dart-v1.1.1-full-test.json", "dart-v1.1.1-full-dev.json"),
    ),
    "webnlg": Layout(webnlg.parse, "train.xml", "dev.xml", "test.xml"),
}


def read(name: str, path: Path, seed: int, part: Splits = "all") -> Pools:
    """The pairs of the set `name` from `path`, which holds its files or a sub-directory of its name.

    `seed` says where a file that stands in for both is cut in validation and test. A file that only other splits than
    those of `part` need is not opened. Raises DataError naming the file that is missing or malformed.
    """
    layout = LAYOUTS.get(name)
    if layout is None:
        raise ConfigError(f"data.set: {name!r} has no files; {choices(LAYOUTS)}")
    folder = find(name, layout, path)
    instead = None if (folder / layout.train).is_file() else layout.instead
    train: list[Pair] = []
    validation: list[Pair] = []
    test: list[Pair] = []
    if part != "evaluation":
        train = load(layout, folder / (instead[0] if instead else layout.train))
    if part != "train" and instead:
        validation, test = halves(load(layout, folder / instead[1]), seed)
    elif part != "train":
        validation, test = load(layout, folder / layout.validation), load(layout, folder / layout.test)
    if instead is None:
        return assemble(train, validation, test)
    note = (
        f"{name}: {layout.train} is not there, so {instead[0]} is the training set, and validation and test are "
        f"{instead[1]} split by meaning representation"
    )
    return assemble(train, validation, test, (note,))


def find(name: str, layout: Layout, path: Path) -> Path:
    """The directory that holds the set's files: `path` itself or its sub-directory `name`."""
    files = (layout.train, layout.validation, layout.test)
    if not path.is_dir():
        raise DataError(f"data.path: {path} is not a directory; valid: one with {', '.join(files)} or {name}/")
    for folder in (path, path / name):
        if any((folder / file).is_file() for file in files):
            return folder
    raise DataError(f"data.path: no {name} file in {path} or {path / name}; valid: {', '.join(files)}")


def load(layout: Layout, path: Path) -> list[Pair]:
    """The pairs of one file, which must be there and must not be empty."""
    if not path.is_file():
        needed = sorted({layout.train, layout.validation, layout.test})
        raise DataError(f"{path}: no such file; valid: a directory with {', '.join(needed)}")
    try:
        pairs = layout.parse(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not any(pair.text for pair in pairs):
        raise DataError(f"{path}: no text in it; valid: a file with at least one")
    return pairs


def halves(pairs: list[Pair], seed: int) -> tuple[list[Pair], list[Pair]]:
    """The pairs cut in two by meaning representation, in file order: half of the representations each."""
    mrs = Draws(seed, "halves").shuffled(list(dict.fromkeys(pair.mr for pair in pairs)))
    first = set(mrs[: (len(mrs) + 1) // 2])
    return [pair for pair in pairs if pair.mr in first], [pair for pair in pairs if pair.mr not in first]


def assemble(train: list[Pair], validation: list[Pair], test: list[Pair], notes: tuple[str, ...] = ()) -> Pools:
    """The pools without empty texts and with validation and test apart; what that leaves out is counted.

    A representation that is in both belongs to the test set. One that is also in the training set stays, as
    released, and a note says so.
    """
    skipped: dict[str, int] = {}
    splits = {"train": train, "validation": validation, "test": test}
    for name, pairs in splits.items():
        splits[name] = [pair for pair in pairs if pair.text]
        count(skipped, f"{name}: empty text", len(pairs) - len(splits[name]))
    tested = {pair.mr for pair in splits["test"]}
    validation = [pair for pair in splits["validation"] if pair.mr not in tested]
    count(skipped, "validation: input of the test set", len(splits["validation"]) - len(validation))
    trained = {pair.mr for pair in splits["train"]}
    for name, pairs in (("validation", validation), ("test", splits["test"])):
        if shared := len(trained & {pair.mr for pair in pairs}):
            notes += (f"{shared} inputs of the {name} set are in the training set too",)
    return Pools(splits["train"], validation, splits["test"], skipped, notes)


def count(skipped: dict[str, int], reason: str, number: int) -> None:
    """Book `number` skipped pairs, if there are any."""
    if number:
        skipped[reason] = skipped.get(reason, 0) + number
