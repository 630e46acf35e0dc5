"""What several files of tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.broker.lab import Lab
    from tests.broker.planes import Plane
    from tests.broker.rabbitmq import RabbitMQ


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """One laboratory for all tests of a process; they leave it as it is."""
    from tests.broker.lab import Lab  # here, since most tests need none of what it needs

    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """A file with the users of the laboratory."""
    from broker.users import set_password
    from tests.broker.lab import PASSWORDS

    for name, password in PASSWORDS.items():
        set_password(tmp_path / "users", name, password)
    return tmp_path / "users"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A file with rules for them."""
    from tests.broker.lab import RULES

    (tmp_path / "rules").write_text(RULES)
    return tmp_path / "rules"


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """One node for all tests of a process; they use runs of their own in it."""
    from tests.broker.rabbitmq import PROGRAM, RabbitMQ

    if PROGRAM is None:
        pytest.skip("rabbitmq-server is not installed in /usr/lib/rabbitmq")
    with RabbitMQ() as node:
        yield node


@pytest.fixture
def plane(request: pytest.FixtureRequest) -> Plane:
    """What a test's parameter of `planes.EVERYWHERE` or `planes.OVER_MQTT` names: (broker, protocol)."""
    from tests.broker import planes

    broker, protocol = request.param
    if broker == "rabbitmq":
        return planes.speaking(protocol, planes.rabbitmq(request.getfixturevalue("rabbitmq").port))
    return planes.speaking(protocol, planes.PLANES[broker])
