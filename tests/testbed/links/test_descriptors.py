"""Enough open files for links, in processes whose limits are low."""

from __future__ import annotations

import subprocess
import sys

RESERVE = """
import resource, sys
from testbed.links.descriptors import reserve
from testbed.links.errors import LinkError
try:
    reserve(int(sys.argv[1]))
except LinkError as error:
    print(error)
else:
    print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def reserved(limits: str, clients: int) -> str:
    """What a process says that reserves for clients under limits, as the shell sets them."""
    command = f'{limits}; exec "$0" -c "$1" {clients}'
    return subprocess.check_output(["sh", "-c", command, sys.executable, RESERVE], text=True).strip()


def test_a_limit_that_is_too_low_is_raised_as_far_as_needed() -> None:
    soft, hard = reserved("ulimit -n 1000; ulimit -Sn 100", 100).split()
    assert 300 < int(soft) < 500
    assert hard == "1000"


def test_a_limit_that_is_enough_stays() -> None:
    assert reserved("ulimit -n 1000; ulimit -Sn 900", 100) == "900 1000"


def test_what_the_system_does_not_allow_is_told_with_what_is_needed_and_what_there_is() -> None:
    said = reserved("ulimit -n 300", 100)
    assert said.startswith("links of 100 clients need 3")
    assert "open files, and `ulimit -Hn` is 300; valid: `ulimit -n 3" in said
    assert "\n" not in said
