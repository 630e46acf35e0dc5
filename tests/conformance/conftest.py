"""The broker that a test is about, by its parameters: which one, and the statement."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.brokers import Brokers
from tests.conformance.differences import DIFFERS
from tests.conformance.suite import KINDS, Subject

PATIENCE_S = 8.0
SHORT_S = 1.0
"""Patience with a broker that is known to differ."""


@pytest.fixture(scope="session")
def brokers() -> Iterator[Brokers]:
    started = Brokers()
    yield started
    started.close()


@pytest.fixture(params=["embedded", "mosquitto"])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def broker(request: pytest.FixtureRequest, engine: str, brokers: Brokers) -> Iterator[Subject]:
    """The broker under test; the parameter is the statement that the test checks."""
    statement: str = request.param
    reason = DIFFERS[engine].get(statement)
    if reason:
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    request.node.user_properties.append(("conformance", f"{engine} {statement}"))
    address = brokers.address(engine, KINDS[statement])
    with Subject(address, statement, SHORT_S if reason else PATIENCE_S) as subject:
        yield subject
