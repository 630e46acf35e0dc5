"""The result of a run in numbers: bytes by kind, level and direction, quality, and time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from splitcom.config import STREAMS
from splitcom.ledger import CUT_LAYER_KINDS, KINDS
from testbed.links.rates import L2_HEADER_BYTES

Records = Mapping[str, Any]
IP_TCP_HEADER_BYTES = 52  # IPv4, and TCP with timestamps
OWN = ("State", "Credit", "UpHeld", "DownHeld", "Share")  # messages that a channel sends on its own


def summarize(
    server: Records,
    agents: Mapping[str, Records],
    wall_s: float,
    broker: Records | None = None,
    links: Records | None = None,
) -> dict[str, Any]:
    """What `summary.json` holds, from the records of the server, every agent, the embedded broker, and the links.

    `uplink_bytes` and `downlink_bytes` are everything that the programs handed to the message plane: bodies of all
    kinds and envelopes. `saved_percent` compares their sum with the same tensors in fp16 both ways, without framing,
    labels and adapters: what the plainest split training cannot go below.
    """
    up = direction([agent["sent"] for agent in agents.values()], [agent["ledger"] for agent in agents.values()])
    down = direction([server["sent"]], [server["ledger"]])
    stages = _sum(agent["ledger"]["stages"] for agent in agents.values()) + Counter(server["ledger"]["stages"])
    ratios = skip_ratios(_sum([*(agent["ledger"]["frames"] for agent in agents.values()), server["ledger"]["frames"]]))
    total = up["wire_bytes"] + down["wire_bytes"]
    # float32 one way is as many bytes as fp16 both ways; the U-shape has two such pairs of streams.
    reference = stages["activation_up.raw"] * (2 if "activation_down.raw" in stages else 1)
    ledgers = [server["ledger"], *(agent["ledger"] for agent in agents.values())]
    return {
        "uplink_bytes": up["wire_bytes"],
        "downlink_bytes": down["wire_bytes"],
        "total_bytes": total,
        "saved_percent": round(100 * (1 - total / reference), 2) if reference else 0.0,
        "perplexity_before": server.get("perplexity_before"),
        "perplexity": server.get("perplexity"),
        "bleu": server.get("bleu"),
        "wall_s": round(wall_s, 2),
        "steps_per_s": server.get("steps_per_s"),
        "steps": server.get("steps"),
        "skip_ratio": ratios.get("activation_up", 0.0),
        "skip_ratios": ratios,
        "cut_layer_bytes": cut_layer(up) + cut_layer(down),
        "adapter_bytes": up["kinds"]["adapter"] + down["kinds"]["adapter"],
        "up": up | levels(agents, "sent", broker, "bytes_in") | interface(agents, links, "up", "sent"),
        "down": down | levels(agents, "received", broker, "bytes_out") | interface(agents, links, "down", "received"),
        "links": links or {},
        "stages": dict(sorted(stages.items())),
        "events": dict(_sum([*(a["ledger"]["events"] for a in agents.values()), server["ledger"]["events"]])),
        "agent_seconds": {name: agent.get("seconds", {}) for name, agent in agents.items()},
        "server_seconds": server.get("seconds", {}),
        "agent_peak_bytes": {name: agent.get("peak_bytes") for name, agent in agents.items()},
        "bits_per_value": bits_per_value(ledgers),
        "agent_memory_bytes": {name: agent["ledger"].get("memory", {}) for name, agent in agents.items()},
    }


def bits_per_value(ledgers: Sequence[Records]) -> dict[str, list[float]]:
    """Per stream and epoch, the bits of its packets over the values of the tensors that they stand for."""
    rates: dict[str, dict[int, list[int]]] = {}
    for ledger in ledgers:
        for stream, epochs in ledger.get("rates", {}).items():
            for epoch, (size, values) in epochs.items():
                total = rates.setdefault(stream, {}).setdefault(int(epoch), [0, 0])
                total[0] += size
                total[1] += values
    return {
        stream: [round(8 * size / values, 4) for _, (size, values) in sorted(rates[stream].items()) if values]
        for stream in STREAMS
        if stream in rates
    }


def skip_ratios(frames: Mapping[str, int]) -> dict[str, float]:
    """Per stream that sent anything, the share of its frames that were skips, from counts by `stream.kind`."""
    ratios: dict[str, float] = {}
    for stream in STREAMS:
        total = sum(count for name, count in frames.items() if name.startswith(f"{stream}."))
        if total:
            ratios[stream] = round(frames.get(f"{stream}.skip", 0) / total, 4)
    return ratios


def direction(sent: list[Records], ledgers: list[Records]) -> dict[str, Any]:
    """One direction: bytes by kind, bodies, envelopes, chunks, and bodies with envelopes.

    The kinds sum to the bodies but for `repeated_bytes`: chunks that were sent again after a connection was lost.
    """
    counts = [count for table in sent for count in table.values()]
    kinds = _sum(ledger["kinds"] for ledger in ledgers)
    kinds["control"] += sum(count["body_bytes"] for table in sent for kind, count in table.items() if kind in OWN)
    body = sum(count["body_bytes"] for count in counts)
    envelopes = sum(count["envelope_bytes"] for count in counts)
    return {
        "kinds": {kind: kinds[kind] for kind in KINDS},
        "body_bytes": body,
        "repeated_bytes": body - sum(kinds.values()),
        "envelope_bytes": envelopes,
        "chunks": sum(count["chunks"] for count in counts),
        "messages": sum(count["messages"] for count in counts),
        "wire_bytes": body + envelopes,
    }


def levels(agents: Mapping[str, Records], way: str, broker: Records | None, counter: str) -> dict[str, Any]:
    """One direction of the agents' connections below the envelopes; None for what nobody could count.

    `tcp_bytes` are the application bytes that the agents' kernels counted, `tcp_bytes_at_broker` the same at the other
    end of each connection, both just before the agents left; `broker_bytes` is the embedded broker's own count, which
    has their parting words as well.
    """
    tcp = [agent.get("tcp", {}) for agent in agents.values()]
    own, peer = [t.get(f"{way}_bytes") for t in tcp], [t.get(f"peer_{way}_bytes") for t in tcp]
    counted = [(broker or {}).get("clients", {}).get(name, {}).get(counter) for name in agents]
    return {
        "tcp_bytes": _total(own),
        "tcp_bytes_at_broker": _total(peer),
        "broker_bytes": _total(counted),
    }


def interface(agents: Mapping[str, Records], links: Records | None, way: str, counter: str) -> dict[str, Any]:
    """One direction as the emulated links counted it; nothing where they have no packets.

    `ip_bytes` in `ip_packets`, of which `ip_header_bytes` are headers (IPv4 20, TCP with timestamps 32 bytes a packet,
    acknowledgements of the other direction among them) and `ip_rest_bytes` what neither the applications' bytes nor
    headers explain: retransmissions, and what is not TCP.
    """
    counted = [ways[way] for ways in (links or {}).get("counters", {}).values() if "l2_bytes" in ways[way]]
    if not counted:
        return {}
    packets = sum(count["packets"] for count in counted)
    size = sum(count["l2_bytes"] for count in counted) - L2_HEADER_BYTES * packets
    application = _total([agent.get("tcp", {}).get(f"{counter}_bytes") for agent in agents.values()])
    headers = IP_TCP_HEADER_BYTES * packets
    return {
        "ip_packets": packets,
        "ip_bytes": size,
        "ip_header_bytes": headers,
        "ip_rest_bytes": None if application is None else size - headers - application,
    }


def _total(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def cut_layer(way: Records) -> int:
    """Activations, gradients, labels and what frames them."""
    return sum(way["kinds"][kind] for kind in CUT_LAYER_KINDS)


def _sum(tables: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for table in tables:
        total.update(table)
    return total
