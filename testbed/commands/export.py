"""`splitcom export`: a finished run's adapter, alone or merged into its base, in a directory of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click

from broker.errors import SettingsError
from broker.program import one_line_errors


@click.command(context_settings={"show_default": True})
@click.argument("run", metavar="RUN")
@click.option("--merge", is_flag=True, help="Write the whole model, the adapter merged into its weights.")
@click.option("--model", metavar="BASE", help="The base, where it lies elsewhere than during the run.")
@click.option("--out", metavar="DIR", help="A new or empty directory.  [default: RUN's name-adapter or -merged]")
def main(run: str, merge: bool, model: str | None, out: str | None) -> None:
    """Copy the adapter of RUN, a run directory, in PEFT's layout, or write its whole model as Hugging Face does.

    With --model, the copied adapter names that base as its own.
    """
    from splitcom.errors import SplitComError
    from splitcom.pretrain import appearing, writable
    from testbed.finished import open_run
    from testbed.progress import Progress
    from testbed.runner import check_directory

    with one_line_errors(SplitComError):
        source = Path(run)
        target = Path(out) if out else Path(f"{source.resolve().name}-{'merged' if merge else 'adapter'}")
        check_directory(target)
        finished = open_run(source, Progress("export"), {"model": model}, needs_base=merge or model is not None)
        writable(target.absolute().parent)
        with appearing(target) as partial:
            if merge:
                from testbed.whole import save_merged

                save_merged(finished, partial)
            else:
                copy_adapter(finished, partial, model)
    click.echo(f"{'model' if merge else 'adapter'}: {target}")


def copy_adapter(run: Any, directory: Path, base: str | None) -> None:
    """Copy the adapter's files; a base that is given becomes the one that they name."""
    shutil.copytree(run.adapter, directory, dirs_exist_ok=True)
    if base is not None:
        path = directory / "adapter_config.json"
        try:
            config = {**json.loads(path.read_text(encoding="utf-8"))}
        except (ValueError, TypeError):
            raise SettingsError(f"{run.adapter / path.name}: no table in JSON; valid: as PEFT writes it") from None
        config["base_model_name_or_path"] = run.scenario.model.base
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
