"""The program of a load process: `python -m testbed.bench.broker_load ROLE JOB`; its result is a line of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from broker.errors import BrokerError
from broker.program import fail
from testbed.bench import broker_churn, broker_crowd, broker_own, broker_pair
from testbed.bench.broker_job import Job, decode

ROLES: dict[str, Callable[[Job], dict[str, Any]]] = {
    "publisher": broker_pair.publisher,
    "subscriber": broker_pair.subscriber,
    "own publisher": broker_own.publisher,
    "own subscriber": broker_own.subscriber,
    "crowd": broker_crowd.crowd,
    "echo": broker_crowd.echo,
    "idle": broker_crowd.idle,
    "slow": broker_crowd.slow,
    "churn": broker_churn.churn,
}

if __name__ == "__main__":
    try:
        print(json.dumps(ROLES[sys.argv[1]](decode(sys.argv[2]))), flush=True)
    except (BrokerError, OSError) as error:
        fail(str(error) or type(error).__name__)
