"""The program of the embedded broker: `splitcom broker`, or `python -m broker`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import Any

import click

from broker import log
from broker.broker_config import is_loopback
from broker.commands import export_mosquitto, passwd
from broker.errors import BrokerError, SettingsError
from broker.program import Emit, OneLine, attached_to_input, emitter, fail, program_options, settings
from broker.server import Broker, BrokerConfig

PREFIX = "SPLITCOM_BROKER_"

_log = logging.getLogger(__name__)


class Program(OneLine, click.Group):
    """A program that has other commands beside it."""


@click.group(name="broker", cls=Program, invoke_without_command=True, context_settings={"show_default": True})
@click.option("--config", metavar="FILE", help="TOML file with any of the settings; see docs/broker.md.")
@click.option("--host", metavar="ADDRESS", help="The address to listen on.")
@click.option("--port", type=int, metavar="PORT", help="The TCP port; 0 takes a free one.")
@click.option("--insecure", is_flag=True, default=None, help="Let anyone connect from other machines.")
@click.option("--users", metavar="FILE", help="Users and their passwords, made by splitcom broker passwd.")
@click.option("--acl", metavar="FILE", help="Access rules in the syntax of mosquitto.")
@click.option("--policy", metavar="NAME", help="none, or devices: every client keeps to its own name and topics.")
@click.option("--tls-certificate", metavar="FILE", help="The broker's certificate; all connections are TLS.")
@click.option("--tls-key", metavar="FILE", help="Its key.")
@click.option("--tls-ca", metavar="FILE", help="Whose certificates of clients are good.")
@click.option("--tls-crl", metavar="FILE", help="Which of them are revoked.")
@click.option("--tls-require", is_flag=True, default=None, help="Let nobody in without a certificate.")
@click.option("--websocket-port", type=int, metavar="PORT", help="The port of MQTT over WebSocket.")
@click.option("--metrics-port", type=int, metavar="PORT", help="The port of metrics for Prometheus.")
@click.option("--store", metavar="FILE", help="What keeps sessions and their messages when the broker ends.")
@click.option("--log", "log_format", type=click.Choice(["text", "json"]), help="How the log is written.")
@program_options
@click.pass_context
def main(
    context: click.Context,
    /,
    config: str | None,
    assignments: tuple[str, ...],
    events: bool,
    attached: bool,
    **flags: Any,
) -> None:
    """Run the MQTT broker (3.1.1 and 5) until SIGINT or SIGTERM; SIGHUP makes it read its files again.

    Settings come from the TOML file, then from SPLITCOM_BROKER_... variables, then from --set, then from flags.
    """
    if context.invoked_subcommand is not None:
        context.obj = lambda: settings(BrokerConfig, PREFIX, config, flags, assignments)
        return
    try:
        parsed = settings(BrokerConfig, PREFIX, config, flags, assignments)
        log.start(parsed.log_format, logging.WARNING if events else logging.INFO)
        emit = emitter("broker", events) if events or parsed.log_format == "text" else _tell
        asyncio.run(_serve(parsed, emit, attached))
    except BrokerError as error:
        fail(str(error))


async def _serve(config: BrokerConfig, emit: Emit, attached: bool) -> None:
    """Announce the address, serve until told to stop, then say what was counted."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    early = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, early.set)
    broker = Broker(config)
    if config.users and not config.tls_certificate and not is_loopback(config.host):
        _log.warning("passwords cross the network in clear; tls_certificate and tls_key change that")
    with attached_to_input(stop.set) if attached else contextlib.nullcontext():
        async with broker:
            host, port = broker.address
            emit({"event": "ready", "host": host, "port": port, **broker.urls})
            loop.add_signal_handler(signal.SIGHUP, _reload, broker, emit)
            if early.is_set():  # after the files were read, perhaps, and before there was anything to renew
                _reload(broker, emit)
            await stop.wait()
    emit({"event": "summary", **broker.snapshot()})


def _tell(event: dict[str, Any]) -> None:
    fields = dict(event)
    log.told(fields.pop("event"), **fields)


def _reload(broker: Broker, emit: Emit) -> None:
    try:
        broker.reload()
    except SettingsError as error:
        emit({"event": "not reloaded", "text": str(error)})
    else:
        emit({"event": "reloaded"})


main.add_command(passwd)
main.add_command(export_mosquitto)

if __name__ == "__main__":
    main(prog_name="python -m broker")
