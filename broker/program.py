"""What the programs have in common: layered settings, one-line errors, events for a parent, and a prompt end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from broker.errors import BrokerError, DeadlineError, SettingsError
from broker.settings import build, from_assignments, from_environment, load_toml, merge

T = TypeVar("T")
Emit = Callable[[dict[str, Any]], None]
INTERRUPTED = 130


class OneLine(click.Command):
    """A command whose usage errors, and those of its subcommands, are one line like all other errors."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """click's own, but for the way it fails."""
        with _one_line_usage():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """click's own, but for the way it fails."""
        with _one_line_usage():
            return super().invoke(ctx)


def program_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every single program has: any setting by its key, events for a parent, an end with it."""
    for option in (
        click.option("--attached", is_flag=True, help="End when standard input closes."),
        click.option("--events", is_flag=True, help="Print events as JSON lines on standard output."),
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other setting."),
    ):
        command = option(command)
    return command


def settings(
    schema: type[T], prefix: str, file: str | None, flags: Mapping[str, Any], assignments: Iterable[str] = ()
) -> T:
    """The program's settings: the TOML file, then the environment, then `--set`, then flags that were given.

    `flags` maps dotted keys to values; None means that the flag was not given. Raises SettingsError.
    """
    table = load_toml(file) if file else {}
    return build(schema, merge(table, overrides(schema, prefix, flags, assignments)))


def overrides(schema: type, prefix: str, flags: Mapping[str, Any], assignments: Iterable[str] = ()) -> dict[str, Any]:
    """The layers above a file: the environment, then `--set`, then flags that were given."""
    given = from_assignments(f"{key}={value}" for key, value in flags.items() if value is not None)
    return merge(from_environment(schema, os.environ, prefix), from_assignments(assignments), given)


def emitter(name: str, events: bool) -> Emit:
    """Where a program's events go: JSON lines on standard output, or lines for a person on standard error."""

    def machine(event: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")
        sys.stdout.flush()

    def human(event: dict[str, Any]) -> None:
        values = {key: value for key, value in event.items() if key != "event"}
        text = str(values.pop("text", ""))
        words = [f"{key}={_short(value)}" for key, value in values.items() if not isinstance(value, dict)]
        said = " ".join([text, *words]).strip()
        if said or len(event) == 1:  # else all that it has is for machines
            print(f"{name}: {event['event']}{': ' * bool(said)}{said}", file=sys.stderr, flush=True)

    return machine if events else human


@contextlib.contextmanager
def one_line_errors(*kinds: type[Exception], status: int = 2) -> Iterator[None]:
    """Turn the given errors, those of the message plane and those of files into one line and an exit status.

    A peer that fell silent is nobody's bad input, so its status is 1; an error with a status of its own keeps that.
    """
    try:
        yield
    except Exception as error:
        first = _first(error)
        if isinstance(first, OSError) and first.filename is not None:
            fail(f"{first.filename}: {first.strerror}", status)
        if not isinstance(first, (BrokerError, *kinds)):
            raise
        fail(str(first), 1 if isinstance(first, DeadlineError) else getattr(first, "status", status))


def fail(text: str, status: int = 2) -> NoReturn:
    """Say what is wrong in one line and leave."""
    print("error: " + " ".join(text.split()), file=sys.stderr, flush=True)
    sys.exit(status)


@contextlib.contextmanager
def attached_to_input(on_end: Callable[[], None]) -> Iterator[None]:
    """Call back once when standard input ends meanwhile; SettingsError where it is closed already, or a file."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)  # or it would end again and again
            on_end()

    try:
        descriptor = sys.stdin.fileno()
        loop.add_reader(descriptor, read)
    except (AttributeError, OSError):  # None is what Python has for a standard input that is closed
        raise SettingsError("--attached: standard input is closed or a file; valid: a pipe or a terminal") from None
    try:
        yield
    finally:
        loop.remove_reader(descriptor)


def run(main: Coroutine[Any, Any, T], attached: bool = False) -> T:
    """Run a program's coroutine; SIGINT and SIGTERM cancel it, as does the end of standard input when `attached`.

    A stopped program leaves by `os._exit` once its coroutine has cleaned up: a computing thread cannot be
    interrupted, and nobody should have to wait for the end of an evaluation.
    """
    stopped = False

    async def supervised() -> T:
        def stop() -> None:
            nonlocal stopped
            stopped = True
            task.cancel()

        with attached_to_input(stop) if attached else contextlib.nullcontext():
            task = asyncio.ensure_future(main)
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stop)
            return await task

    try:
        with contextlib.closing(main):  # which was not begun where it could not be supervised
            return asyncio.run(supervised())
    except BaseException:
        if not stopped:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)


@contextlib.contextmanager
def _one_line_usage() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        text = error.format_message()
        if text.startswith("No such command") and error.ctx and isinstance(error.ctx.command, click.Group):
            text = f"{text.rstrip('.')}; valid: {', '.join(error.ctx.command.list_commands(error.ctx))}"
        fail(text)


def peak_bytes() -> int | None:
    """The most memory that this process has had resident so far; None where the kernel does not tell (it is Linux's).

    `ru_maxrss` will not do: a process that was forked begins with the peak of the one that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_short, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
