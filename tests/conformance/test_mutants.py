"""Every test of a statement fails where the embedded broker breaks that statement."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conformance.brokers import BROKERS, Brokers, running
from tests.conformance.mutants import MUTANTS
from tests.conformance.statements import STATEMENTS, TESTED
from tests.conformance.suite import KINDS, TESTS, Subject, load

PATIENCES_S = (0.5, 2.0)
"""How long a test waits for what does not come from a mutant: the first that suffices for the broker as it is."""


@pytest.fixture(scope="module")
def whole() -> Iterator[Brokers]:
    """Brokers that nothing is broken in."""
    load()
    started = Brokers()
    yield started
    started.close()


def passes(address: tuple[str, int], statement: str, patience: float) -> bool:
    try:
        with Subject(address, statement, patience) as subject:
            TESTS[statement](subject)
    except (AssertionError, OSError):  # a time-out is an OSError
        return False
    return True


def test_every_statement_that_is_tested_has_its_mutant() -> None:
    assert MUTANTS.keys() == {name for name, statement in STATEMENTS.items() if statement.status == TESTED}


@pytest.mark.slow
@pytest.mark.parametrize("statement", MUTANTS)
def test_the_test_of_a_statement_fails_under_its_mutant(
    statement: str, whole: Brokers, caplog: pytest.LogCaptureFixture, record_property: Callable[[str, object], None]
) -> None:
    record_property("conformance", f"mutant {statement}")
    kind = "embedded", KINDS[statement]
    patience = next((p for p in PATIENCES_S if passes(whole.address(*kind), statement, p)), None)
    assert patience, "the test fails without a mutant"
    with MUTANTS[statement](), running(BROKERS[kind]) as address:
        assert not passes(address, statement, patience)
    # A mutant does something wrong; one that fails itself would prove nothing.
    assert [record for record in caplog.records if record.name == "asyncio"] == []
