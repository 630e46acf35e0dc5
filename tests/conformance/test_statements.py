"""The list of statements and the tests belong together."""

from __future__ import annotations

import pytest

from tests.conformance.differences import DIFFERS
from tests.conformance.statements import STATEMENTS, STATUSES, TESTED
from tests.conformance.suite import TESTS, load


@pytest.fixture(autouse=True)
def _all_tests() -> None:
    load()


def test_every_statement_that_is_tested_has_its_test() -> None:
    assert {name for name, statement in STATEMENTS.items() if statement.status == TESTED} == set(TESTS)


def test_whatever_is_not_tested_says_why() -> None:
    for statement in STATEMENTS.values():
        assert statement.status in STATUSES
        assert bool(statement.reason) is (statement.status != TESTED), statement.id


def test_differences_are_of_statements_that_are_tested() -> None:
    for differences in DIFFERS.values():
        assert differences.keys() <= TESTS.keys()
