"""Runs the suite and writes what came out as a page: `python -m tests.conformance.report [FILE]`.

Statements are in the order of the standards. For each it says what the embedded broker does, what mosquitto does, and
whether its test was shown to fail under its mutant.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.engines import find_mosquitto
from tests.conformance.differences import DIFFERS
from tests.conformance.statements import STATEMENTS, STATUSES, TESTED

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "conformance.md"
BROKERS = ("embedded", "mosquitto")
VERSIONS = {"3.1.1": "MQTT 3.1.1", "5": "MQTT 5.0"}
PASSED, FAILED, DIFFERENT, SKIPPED, MISSING = "yes", "**no**", "no", "–", "not run"
COLUMNS = (*BROKERS, "mutant")

INTRODUCTION = """\
# MQTT conformance

`tests/conformance` checks every normative statement of MQTT 3.1.1 and 5.0 that can be observed from outside a server.
Its client speaks MQTT over plain sockets and shares no code with the broker. The same tests run against the embedded
broker and against {mosquitto}. Each test has also been run against an embedded broker that was broken for its
statement (`mutants.py`), and has to fail there: "mutant" says whether it did.

Made by `python -m tests.conformance.report`; a single test is run with, for example,
`pytest -m "" tests/conformance -k "embedded and 5:MQTT-3.1.2-22"`.
"""

READINGS = """\
## How some statements are read

* What a server answers to a client that breaks a rule for clients counts as a test of that rule.
* Keepalive: the embedded broker counts received bytes, not complete packets, so that a large packet on a slow link does
  not end its own connection. A client that never completes a packet is therefore not silent.
* Overlapping subscriptions: the embedded broker sends one copy, at the highest QoS and with all identifiers.
* QoS 2: the embedded broker passes a message on at its first PUBLISH, mosquitto at its PUBREL; both are allowed.
* Forbidden messages are tried with `$SYS`, where neither broker lets clients publish.
"""


class Results:
    """A pytest plugin that keeps the outcome of every test of a statement, by (column, statement)."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], str] = {}
        self.skips: dict[tuple[str, str], str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == "conformance":
                column, _, statement = str(value).partition(" ")
                self._book((column, statement), report)

    def _book(self, key: tuple[str, str], report: pytest.TestReport) -> None:
        if report.skipped and hasattr(report, "wasxfail"):
            self.found[key] = DIFFERENT
        elif report.skipped:
            self.found[key] = SKIPPED
            if isinstance(report.longrepr, tuple):
                self.skips[key] = report.longrepr[2].removeprefix("Skipped: ")
        elif report.failed:
            self.found[key] = FAILED
        elif report.when == "call":
            self.found.setdefault(key, PASSED)


def mosquitto_version() -> str:
    """For example `mosquitto 2.0.11`."""
    program = find_mosquitto()
    if program is None:
        return "mosquitto"
    said = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout.split()
    return f"mosquitto {said[2]}"


def page(results: Results, mosquitto: str) -> Iterator[str]:
    """The lines of the page."""
    found = results.found
    yield from INTRODUCTION.format(mosquitto=mosquitto).splitlines()
    yield ""
    yield _line("", "statements", *STATUSES, "embedded", "mosquitto", "mutants")
    yield _line(*["---"] * 9)
    for version, title in VERSIONS.items():
        statements = [s for s in STATEMENTS.values() if s.id.startswith(f"{version}:")]
        counts = Counter(s.status for s in statements)
        passed = [sum(found.get((column, s.id)) == PASSED for s in statements) for column in COLUMNS]
        yield _line(title, len(statements), *(counts[status] for status in STATUSES), *passed)
    yield ""
    yield "The last three columns count the tests that pass, and the mutants under which a test failed."
    yield ""
    yield from READINGS.splitlines()
    for version, title in VERSIONS.items():
        yield ""
        yield f"## {title}"
        yield ""
        yield _line("statement", "what it says", *COLUMNS, "remarks")
        yield _line(*["---"] * 6)
        for statement in STATEMENTS.values():
            if statement.id.startswith(f"{version}:"):
                yield _row(statement.id, results)


def _row(name: str, results: Results) -> str:
    statement = STATEMENTS[name]
    if statement.status == TESTED:
        cells = [results.found.get((column, name), MISSING) for column in COLUMNS]
        remarks = [f"{broker} {DIFFERS[broker][name]}" for broker in BROKERS if name in DIFFERS[broker]]
        remarks += [results.skips[column, name] for column in COLUMNS if (column, name) in results.skips]
    else:
        cells = [SKIPPED] * 3
        remarks = [f"{statement.status}: {statement.reason}"]
    return _line(name.partition(":")[2], statement.says, *cells, "; ".join(remarks))


def _line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> int:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    results = Results()
    tests = str(ROOT / "tests" / "conformance")
    status = pytest.main([tests, "-q", "-n", "2", "-m", "", "--rootdir", str(ROOT)], plugins=[results])
    target.write_text("\n".join(page(results, mosquitto_version())) + "\n", encoding="utf-8")
    print(f"wrote {target}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
