"""`splitcom evaluate`: the model of a finished run, measured again and with every metric."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from broker.program import one_line_errors

NO_METRIC = "none"
LOWER_IS_BETTER = ("ter",)


@click.command(context_settings={"show_default": True})
@click.argument("run", metavar="RUN")
@click.option("--model", metavar="BASE", help="The base, where it lies elsewhere than during the run.")
@click.option("--data", metavar="DIR", help="The data set's original files, where they lie elsewhere.")
@click.option(
    "--split",
    type=click.Choice(["validation", "test"]),
    default="validation",
    help="The texts whose perplexity is measured.",
)
@click.option("--metrics", metavar="NAMES", help="Text metrics, parted by commas, or none.  [default: all]")
@click.option("--meteor-jar", metavar="FILE", help="The official meteor-1.5.jar, for the metric meteor.")
@click.option("--limit", type=click.IntRange(0), default=0, metavar="N", help="Distinct test inputs; 0: all.")
@click.option(
    "--max-new-tokens", type=click.IntRange(1), metavar="N", help="The longest output.  [default: as in the run]"
)
@click.option("--outputs", metavar="FILE", help="Write the generated texts with their references, as JSON.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting of the run's scenario.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    run: str,
    model: str | None,
    data: str | None,
    split: str,
    metrics: str | None,
    meteor_jar: str | None,
    limit: int,
    max_new_tokens: int | None,
    outputs: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure the model of RUN, a run directory: perplexity, and what it writes for the test inputs.

    Base and exported adapter are put together whole, however the run had cut them.
    """
    from splitcom.data.corpus import load
    from splitcom.errors import SplitComError
    from testbed.finished import open_run
    from testbed.progress import Progress
    from testbed.runner import finite

    progress = Progress("evaluate")
    with one_line_errors(SplitComError):
        table = metrics_for(metrics, meteor_jar)
        check_file(outputs)
        if not table and metrics is None:
            progress.say("no text metric: all of them need the package sacrebleu; install splitcom[testbed]")
        finished = open_run(Path(run), progress, {"model": model, "data": data}, assignments)
        scenario = finished.scenario
        corpus = load(scenario.data, "evaluation")
        for note in corpus.notes:
            progress.say(note)
        wanted = (limit or len(corpus.test)) if table or outputs else 0
        settings = replace(
            scenario.evaluation, bleu=wanted, max_new_tokens=max_new_tokens or scenario.evaluation.max_new_tokens
        )
        result = finite(measure(finished, corpus, split, settings, table, outputs, progress))
    click.echo(json.dumps(result, indent=1) if as_json else report(result))


def metrics_for(names: str | None, meteor_jar: str | None) -> dict[str, Any]:
    """The metrics by name, checked for what they need; SettingsError or ConfigError names what is missing."""
    from broker.errors import SettingsError
    from splitcom.metrics import METRICS, Meteor, available
    from splitcom.metrics.sacre import sacrebleu

    table: dict[str, Any] = dict(METRICS)
    if meteor_jar is not None:
        table["meteor"] = Meteor(Path(meteor_jar))
        table["meteor"].check()
    if names is None:
        return {name: metric for name, metric in table.items() if available() or name == "meteor"}
    chosen = [name.strip() for name in names.split(",")]
    if chosen == [NO_METRIC]:
        return {}
    for name in chosen:
        if name == "meteor" and name not in table:
            raise SettingsError("--metrics: meteor needs --meteor-jar FILE, the official meteor-1.5.jar")
        if name not in table:
            valid = ", ".join(dict.fromkeys([*table, "meteor", NO_METRIC]))
            raise SettingsError(f"--metrics: {name!r} is unknown; valid: {valid}")
        if name != "meteor":
            sacrebleu(name)
    return {name: table[name] for name in chosen}


def check_file(path: str | None) -> None:
    """Raise SettingsError unless a file can be written there."""
    from broker.errors import SettingsError

    if path is None:
        return
    folder = Path(path).absolute().parent
    if Path(path).is_dir() or not folder.is_dir():
        raise SettingsError(f"--outputs: {path} cannot be written; valid: a file in a directory that exists")
    if not os.access(path if Path(path).exists() else folder, os.W_OK):
        raise SettingsError(f"--outputs: {path} cannot be written; valid: a place with write permission")


def measure(
    run: Any, corpus: Any, split: str, settings: Any, metrics: dict[str, Any], outputs: str | None, progress: Any
) -> dict[str, Any]:
    """What `--json` prints; the texts go to the file `outputs` before they are scored."""
    from splitcom.data.sample import tokenize
    from splitcom.metrics import score
    from testbed.whole import load_whole
    from training_server.evaluation import Evaluation

    whole = load_whole(run)
    examples, skipped = tokenize(getattr(corpus, split), whole.tokenizer, whole.positions)
    for reason, count in skipped.items():
        progress.say(f"{split}: skipped {count}: {reason}")
    evaluation = Evaluation(whole.model, whole.tokenizer, examples, corpus.test, settings, whole.positions)
    result = {"run": str(run.directory), "split": split, "perplexity": evaluation.perplexity()}
    inputs = min(settings.bleu, len({sample.mr for sample in corpus.test}))
    if inputs > len(evaluation.test):
        progress.say(f"test: skipped {inputs - len(evaluation.test)}: no room for an output behind the input")
    if evaluation.test:
        progress.say(f"generating {len(evaluation.test)} texts")
    records = evaluation.outputs(lambda done, of: progress.pulse(f"{done}/{of} texts"))
    if outputs is not None:
        Path(outputs).write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if not records:
        return result | {"texts": 0, "metrics": {}}
    progress.say(f"generated {len(records)} texts" + (", scoring them" if metrics else ""))
    scores = score([r["output"] for r in records], [r["references"] for r in records], metrics, metrics)
    return result | {"texts": len(records), "metrics": scores}


def report(result: dict[str, Any]) -> str:
    """The result for a person: a line per figure."""
    from testbed.progress import table

    figures = {f"perplexity ({result['split']})": result["perplexity"], **result["metrics"]}
    rows = []
    for name, value in figures.items():
        lower = name in LOWER_IS_BETTER or name.startswith("perplexity")
        shown = "-" if value is None else f"{value:.2f}"
        rows.append({"metric": name, "value": shown, "better": "lower" if lower else "higher"})
    texts = [f"{result['texts']} texts of the test set"] if result["texts"] else []
    return "\n".join([table(rows), *texts])
