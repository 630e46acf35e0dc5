"""`splitcom generate`: what the model of a finished run writes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from broker.program import one_line_errors

STANDARD_INPUT = "-"


@click.command(context_settings={"show_default": True})
@click.argument("run", metavar="RUN")
@click.option(
    "--mr",
    "mrs",
    multiple=True,
    required=True,
    metavar="TEXT",
    help="An input as the data set spells it; may be given again. -: one per line of standard input.",
)
@click.option("--model", metavar="BASE", help="The base, where it lies elsewhere than during the run.")
@click.option(
    "--max-new-tokens", type=click.IntRange(1), metavar="N", help="The longest output.  [default: as in the run]"
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting of the run's scenario.")
@click.option("--json", "as_json", is_flag=True, help="Print inputs and texts as JSON.")
def main(
    run: str,
    mrs: tuple[str, ...],
    model: str | None,
    max_new_tokens: int | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print the greedy text of RUN's model for each input, a line each, in their order."""
    from splitcom.errors import SplitComError
    from testbed.finished import open_run
    from testbed.progress import Progress

    with one_line_errors(SplitComError):
        finished = open_run(Path(run), Progress("generate"), {"model": model}, assignments)
        inputs = read_inputs(mrs)
        settings = finished.scenario.evaluation
        settings = replace(settings, max_new_tokens=max_new_tokens or settings.max_new_tokens)

        from testbed.whole import load_whole
        from training_server.evaluation import generate

        whole = load_whole(finished)
        check_lengths(inputs, whole.tokenizer, whole.positions, settings.max_new_tokens)
        texts = generate(whole.model, whole.tokenizer, inputs, settings)
    if as_json:
        pairs = [{"mr": mr, "output": text} for mr, text in zip(inputs, texts, strict=True)]
        click.echo(json.dumps(pairs, indent=1, ensure_ascii=False))
    else:
        for text in texts:
            click.echo(" ".join(text.split()))


def read_inputs(mrs: tuple[str, ...]) -> list[str]:
    """The inputs with their white space as in training; SettingsError for one that is empty or no text."""
    from broker.errors import SettingsError

    inputs = []
    for mr in mrs:
        if mr == STANDARD_INPUT:
            try:
                lines = sys.stdin.buffer.read().decode("utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise SettingsError(f"--mr -: standard input is not UTF-8: {error.reason}") from None
            inputs += [" ".join(line.split()) for line in lines if line.strip()]
            continue
        try:
            mr.encode()
        except UnicodeEncodeError:
            raise SettingsError("--mr: not UTF-8; valid: text as the data set spells it") from None
        if not mr.strip():
            raise SettingsError("--mr: empty; valid: an input as the data set spells it, or - for standard input")
        inputs.append(" ".join(mr.split()))
    if not inputs:
        raise SettingsError("--mr -: no line on standard input; valid: one input a line")
    return inputs


def check_lengths(inputs: list[str], tokenizer: Any, positions: int, max_new_tokens: int) -> None:
    """Raise SettingsError for an input that leaves no room for the longest output."""
    from broker.errors import SettingsError
    from splitcom.data.sample import SEPARATOR

    room = positions - max_new_tokens
    for mr in inputs:
        length = len(tokenizer.encode(mr + SEPARATOR, add_special_tokens=False))
        if length > room:
            raise SettingsError(
                f"--mr: {mr[:30]!r}... has {length} tokens, an output of {max_new_tokens} leaves it {max(0, room)} of "
                f"{positions}; valid: a shorter one, or fewer --max-new-tokens"
            )
