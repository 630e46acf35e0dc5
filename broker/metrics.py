"""What a broker counts and holds, as a page in Prometheus' text format, version 0.0.4."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import NamedTuple

from broker.counters import ConnectionCount
from broker.process_usage import ProcessUsage, process_usage
from broker.statistics import Statistics, StoreStatistics
from broker.version import version


class Sample(NamedTuple):
    """One value of a family, told apart from its others by labels as they stand in the page."""

    value: float
    labels: str = ""


class Family(NamedTuple):
    """All samples of one name; those whose name ends in `_total` only ever grow."""

    name: str
    help: str
    samples: Iterable[Sample]


def render(statistics: Statistics, clients: Mapping[str, ConnectionCount]) -> str:
    """The page; `clients` are those that get samples of their own, by client id."""
    lines: list[str] = []
    of_broker = *_of_broker(statistics), *_of_store(statistics.store)
    for family in (*of_broker, *_of_clients(clients), *_of_process(process_usage())):
        lines += _lines(family)
    return "\n".join(lines) + "\n"


_BROKER: tuple[tuple[str, str, Callable[[Statistics], float]], ...] = (
    ("uptime_seconds", "Time since the broker was started.", attrgetter("uptime_s")),
    ("connections", "Open connections, those without a session among them.", attrgetter("open_connections")),
    ("connections_total", "Connections that were accepted.", attrgetter("totals.connections")),
    ("connections_refused_total", "Connections that never got a session.", attrgetter("totals.refused")),
    ("sessions_connected", "Sessions with a connection.", attrgetter("connected")),
    ("sessions_connected_max", "The most sessions with a connection at once.", attrgetter("totals.most_connected")),
    ("sessions_disconnected", "Sessions that are kept for a client that is away.", attrgetter("disconnected")),
    ("sessions_expired_total", "Sessions whose client stayed away.", attrgetter("totals.sessions_expired")),
    ("subscriptions", "Subscriptions of all sessions.", attrgetter("subscriptions")),
    ("messages_waiting", "Deliveries that are queued.", attrgetter("waiting")),
    ("messages_unacknowledged", "Deliveries that were sent and not acknowledged.", attrgetter("unacknowledged")),
    ("queued_bytes", "Bytes of both, counted once for every subscriber.", attrgetter("queued_bytes")),
    ("messages_dropped_total", "Messages that a limit kept from a subscriber.", attrgetter("totals.dropped")),
    ("messages_expired_total", "Messages that expired while they waited.", attrgetter("totals.expired")),
    ("forbidden_total", "Messages and subscriptions that were not allowed.", attrgetter("totals.forbidden")),
    ("retained_messages", "Retained messages.", attrgetter("retained_messages")),
    ("retained_bytes", "Bytes of retained messages.", attrgetter("retained_bytes")),
)

_TRAFFIC: tuple[tuple[str, str, Callable[[ConnectionCount], int]], ...] = (
    ("bytes_received_total", "Bytes of MQTT that were received", attrgetter("bytes_in")),
    ("bytes_sent_total", "Bytes of MQTT that were sent", attrgetter("bytes_out")),
    ("packets_received_total", "MQTT packets that were received", attrgetter("packets_in")),
    ("packets_sent_total", "MQTT packets that were sent", attrgetter("packets_out")),
    ("publishes_received_total", "PUBLISH packets that were received", attrgetter("publishes_in")),
    ("publishes_sent_total", "PUBLISH packets that were sent", attrgetter("publishes_out")),
)

_STORE: tuple[tuple[str, str, Callable[[StoreStatistics], float]], ...] = (
    ("store_commits_total", "Commits to the store.", attrgetter("commits")),
    ("store_commit_seconds_total", "Time that these commits took.", attrgetter("commit_s")),
    ("store_bytes", "Bytes of the store, its log among them.", attrgetter("held_bytes")),
    ("store_failing", "Whether the store cannot be written, 0 or 1.", lambda store: int(store.failing)),
)

_PROCESS: tuple[tuple[str, str, Callable[[ProcessUsage], float]], ...] = (
    ("cpu_seconds_total", "Processor time of this process.", attrgetter("cpu_s")),
    ("resident_memory_bytes", "Memory of this process that is resident.", attrgetter("resident_bytes")),
    ("open_fds", "File descriptors that this process has open.", attrgetter("open_files")),
)


def _of_broker(statistics: Statistics) -> Iterator[Family]:
    yield Family("splitcom_broker_info", "Which broker this is.", [Sample(1, _label("version", version()))])
    for name, text, read in _BROKER:
        yield Family(f"splitcom_broker_{name}", text, [Sample(read(statistics))])
    ended = [Sample(count, _label("reason", reason)) for reason, count in sorted(statistics.totals.ended.items())]
    yield Family("splitcom_broker_connections_ended_total", "Connections that the broker refused or ended.", ended)
    rejected = [Sample(count, _label("reason", reason)) for reason, count in sorted(statistics.totals.rejected.items())]
    yield Family("splitcom_broker_rejected_total", "Messages and subscriptions that were refused.", rejected)
    for name, text, counter in _TRAFFIC:
        yield Family(f"splitcom_broker_{name}", f"{text}.", [Sample(counter(statistics.traffic))])


def _of_store(store: StoreStatistics | None) -> Iterator[Family]:
    if store is not None:
        for name, text, read in _STORE:
            yield Family(f"splitcom_broker_{name}", text, [Sample(read(store))])


def _of_clients(clients: Mapping[str, ConnectionCount]) -> Iterator[Family]:
    labelled = [(_label("client", client_id), count) for client_id, count in clients.items()]
    for name, text, counter in _TRAFFIC if clients else ():
        samples = [Sample(counter(count), label) for label, count in labelled]
        yield Family(f"splitcom_broker_client_{name}", f"{text}, by client id.", samples)


def _of_process(usage: ProcessUsage | None) -> Iterator[Family]:
    if usage is not None:
        for name, text, read in _PROCESS:
            yield Family(f"process_{name}", text, [Sample(read(usage))])


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {family.help}"
    yield f"# TYPE {family.name} {'counter' if family.name.endswith('_total') else 'gauge'}"
    for value, labels in family.samples:
        yield f"{family.name}{labels} {value}"


def _label(name: str, text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'{{{name}="{escaped}"}}'
