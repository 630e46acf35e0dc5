"""For every statement that is tested, a break of the embedded broker under which its test has to fail."""

from __future__ import annotations

from tests.conformance import mutants_connect, mutants_messages, mutants_qos, mutants_subscriptions
from tests.conformance.mutation import Mutant

MUTANTS: dict[str, Mutant] = {}
"""By the statement's id."""

for _module in (mutants_connect, mutants_messages, mutants_qos, mutants_subscriptions):
    for _statements, _mutant in _module.BREAKS:
        for _statement in _statements:
            assert _statement not in MUTANTS, f"{_statement} has two mutants"
            MUTANTS[_statement] = _mutant
