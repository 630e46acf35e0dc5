"""The summary's sums, from records made by hand: kinds, levels and directions, and what nobody could count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from splitcom.ledger import KINDS
from testbed.demo import KEYS, METHODS, compare, render
from testbed.runner import broker_counts, finite, write_summary
from testbed.summary import direction, levels, summarize


def count(body: int, envelope: int, chunks: int = 1, messages: int = 1) -> dict[str, int]:
    return {"body_bytes": body, "envelope_bytes": envelope, "chunks": chunks, "messages": messages}


def ledger(**kinds: int) -> dict[str, Any]:
    return {"kinds": kinds, "frames": {}, "stages": {}, "events": {}, "rates": {}, "memory": {}}


def agent(raw: int, skipped: int, sent: int) -> dict[str, Any]:
    """An agent whose one activation message had `sent` bytes: labels 10, framing 5, the rest keyframes."""
    book = ledger(keyframe=sent - 15, label=10, framing=5, control=20)
    book["frames"] = {"activation_up.skip": skipped, "activation_up.keyframe": 4 - skipped}
    book["stages"] = {"activation_up.raw": raw, "activation_up.coded": raw // 4}
    book["events"] = {"refused_step": 1}
    book["rates"] = {"activation_up": {"0": [200, 100], "1": [50, 100]}}
    book["memory"] = {"activation_up": 64}
    return {
        "ledger": book,
        "sent": {
            "ActivationUp": count(sent, 26, 2),
            "Hello": count(20, 13),
            "State": count(6, 13),
            "Credit": count(4, 13),
        },
        "received": {},
        "seconds": {"forward": 1.5},
        "peak_bytes": 1000,
        "tcp": {"sent_bytes": 300, "received_bytes": 500, "peer_sent_bytes": 300, "peer_received_bytes": 500},
    }


@pytest.fixture
def server() -> dict[str, Any]:
    book = ledger(gradient=150, adapter=40, framing=10, control=30)
    book["frames"] = {"gradient_down.keyframe": 6, "gradient_down.skip": 2}
    book["events"] = {"refused_step": 1, "stranger": 2}
    book["rates"] = {"gradient_down": {"0": [400, 200]}}
    return {
        "ledger": book,
        "sent": {"GradientDown": count(160, 26, 2), "Begin": count(70, 13), "State": count(6, 13)},
        "received": {},
        "perplexity_before": 90.0,
        "perplexity": 30.0,
        "bleu": 12.5,
        "steps": 8,
        "steps_per_s": 2.0,
        "seconds": {"step": 3.0},
    }


@pytest.fixture
def agents() -> dict[str, dict[str, Any]]:
    return {"agent0": agent(400, 1, 100), "agent1": agent(600, 3, 80)}


def test_kinds_sum_to_the_bodies_and_bodies_with_envelopes_to_the_wire(
    server: dict[str, Any], agents: dict[str, Any]
) -> None:
    summary = summarize(server, agents, 12.345)
    up, down = summary["up"], summary["down"]
    assert up["kinds"] == dict.fromkeys(KINDS, 0) | {"keyframe": 150, "label": 20, "framing": 10, "control": 60}
    assert down["kinds"] == dict.fromkeys(KINDS, 0) | {"gradient": 150, "adapter": 40, "framing": 10, "control": 36}
    for way in (up, down):
        assert sum(way["kinds"].values()) == way["body_bytes"]
        assert way["repeated_bytes"] == 0
        assert way["wire_bytes"] == way["body_bytes"] + way["envelope_bytes"]
    assert (up["body_bytes"], up["envelope_bytes"], up["chunks"], up["messages"]) == (240, 130, 10, 8)
    assert (down["body_bytes"], down["envelope_bytes"], down["chunks"], down["messages"]) == (236, 52, 4, 3)
    assert (summary["uplink_bytes"], summary["downlink_bytes"], summary["total_bytes"]) == (370, 288, 658)
    assert summary["cut_layer_bytes"] == 150 + 20 + 10 + 150 + 10
    assert summary["adapter_bytes"] == 40


def test_quality_shares_and_times_are_passed_on(server: dict[str, Any], agents: dict[str, Any]) -> None:
    summary = summarize(server, agents, 12.345)
    assert summary["saved_percent"] == round(100 * (1 - 658 / 1000), 2)
    assert summary["skip_ratio"] == 0.5
    assert summary["skip_ratios"] == {"activation_up": 0.5, "gradient_down": 0.25}
    assert (summary["perplexity_before"], summary["perplexity"], summary["bleu"]) == (90.0, 30.0, 12.5)
    assert (summary["steps"], summary["steps_per_s"], summary["wall_s"]) == (8, 2.0, 12.35)
    assert summary["stages"] == {"activation_up.coded": 250, "activation_up.raw": 1000}
    assert summary["events"] == {"refused_step": 3, "stranger": 2}
    assert summary["agent_seconds"] == {"agent0": {"forward": 1.5}, "agent1": {"forward": 1.5}}
    assert summary["agent_memory_bytes"] == {"agent0": {"activation_up": 64}, "agent1": {"activation_up": 64}}
    assert summary["bits_per_value"] == {"activation_up": [16.0, 4.0], "gradient_down": [16.0]}
    assert set(KEYS) <= set(summary)


def test_a_run_that_was_stopped_early_has_counts_and_no_quality() -> None:
    nothing: dict[str, Any] = {"ledger": ledger(), "sent": {}, "received": {}}
    summary = summarize(nothing, {"agent0": nothing}, 1.0)
    assert (summary["total_bytes"], summary["saved_percent"], summary["skip_ratio"]) == (0, 0.0, 0.0)
    assert summary["perplexity"] is summary["bleu"] is summary["steps"] is None
    assert summary["skip_ratios"] == {}


def test_chunks_that_were_sent_again_are_told_apart() -> None:
    way = direction([{"ActivationUp": count(150, 39, 3)}], [ledger(keyframe=80, framing=20)])
    assert (way["body_bytes"], way["repeated_bytes"]) == (150, 50)


def test_the_levels_below_are_summed_over_the_agents(agents: dict[str, Any]) -> None:
    broker = {"clients": {"agent0": {"bytes_in": 310, "bytes_out": 520}, "agent1": {"bytes_in": 305, "bytes_out": 510}}}
    assert levels(agents, "sent", broker, "bytes_in") == {
        "tcp_bytes": 600,
        "tcp_bytes_at_broker": 600,
        "broker_bytes": 615,
    }
    assert levels(agents, "received", broker, "bytes_out")["broker_bytes"] == 1030


def test_a_level_that_one_agent_could_not_count_is_unknown(agents: dict[str, Any]) -> None:
    agents["agent1"]["tcp"]["peer_sent_bytes"] = None
    found = levels(agents, "sent", {"clients": {"agent0": {"bytes_in": 310}}}, "bytes_in")
    assert found == {"tcp_bytes": 600, "tcp_bytes_at_broker": None, "broker_bytes": None}
    del agents["agent0"]["tcp"]
    assert levels(agents, "sent", None, "bytes_in")["tcp_bytes"] is None


def test_the_brokers_counts_are_found_by_the_names_of_the_clients(tmp_path: Path) -> None:
    assert broker_counts("lab", tmp_path) is None
    counts = {"sc-lab-agent0": {"bytes_in": 1}, "sc-lab-server": {"bytes_in": 2}, "probe": {"bytes_in": 3}}
    (tmp_path / "broker.json").write_text(json.dumps({"event": "summary", "clients": counts}))
    found = broker_counts("lab", tmp_path)
    assert found == {"clients": {"agent0": {"bytes_in": 1}, "server": {"bytes_in": 2}, "probe": {"bytes_in": 3}}}


def test_numbers_that_json_cannot_hold_become_null(tmp_path: Path) -> None:
    assert finite({"a": float("nan"), "b": {"c": float("inf"), "d": 1.5}, "e": "x"}) == {
        "a": None,
        "b": {"c": None, "d": 1.5},
        "e": "x",
    }
    written = write_summary(tmp_path, {"perplexity": float("inf")})
    assert written == json.loads((tmp_path / "summary.json").read_text())
    assert written == {"perplexity": None, "run_dir": str(tmp_path)}


def test_the_demos_table_also_shows_a_run_without_bleu() -> None:
    summary = dict.fromkeys(KEYS, 10.0) | {"bleu": None, "run_dir": "r"}
    lines = render(compare(dict.fromkeys(METHODS, summary))).splitlines()
    assert len(lines) == 1 + len(METHODS)
    assert len({len(line) for line in lines}) == 1
