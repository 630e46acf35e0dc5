"""Devices behind an interface measured as they are shaped: what `splitcom link check INTERFACE` does."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Callable
from typing import Any

from broker.congestion import set_congestion
from testbed.links.calibration import MESSAGES, WHAT, measure
from testbed.links.driver import Ends
from testbed.links.errors import LinkError
from testbed.links.hold import Hold
from testbed.links.host import Host
from testbed.links.profile import UNSHAPED

Say = Callable[[str], None]


async def check_devices(
    host: Host, seconds: float, port: int, wait_s: float, congestion: str, say: Say
) -> dict[str, Any]:
    """Wait until all shaped devices have joined, and hold what is measured against their profiles.

    Raises LinkError where nothing is shaped, a device does not join within `wait_s`, or it cannot be measured.
    """
    profiles = {address: profile for address, profile in host.profiles().items() if profile.needs}
    if not profiles:
        valid = f"valid: after `splitcom link set {host.interface}/ADDRESS PROFILE`"
        raise LinkError(f"no device is shaped behind {host.interface}; {valid}")
    with socket.socket() as trial:
        set_congestion(trial, congestion)
    own = await host.address()
    async with Hold(host, say) as hold, Ends() as ends:
        for address, profile in profiles.items():
            await hold.set(address, profile)  # nobody changes it meanwhile, and what is missing of it is made
        driver, server = await ends.serve(host.prefix(), own, port, congestion, profiles)
        say(f"run on each device, within {wait_s:g} s: splitcom link join {shlex.quote(f'{own}:{server.port}')}")
        say(f"waiting for {', '.join(profiles)}")
        missing = await driver.missing(profiles, wait_s)
        if missing:
            raise LinkError(f"{', '.join(missing)} did not join within {wait_s:g} s; see `splitcom link join --help`")
        say("measuring")
        for address in profiles:
            await hold.set(address, UNSHAPED)
        own_s = await driver.synchronise(profiles, MESSAGES)
        checks = await measure(hold, driver, profiles, WHAT, seconds)
        own_ms = {address: round(1000 * round_trip, 3) for address, round_trip in own_s.items()}
        facts = host.facts() | {"own_round_trip_ms": own_ms}
    return {
        "backend": "host",
        "why": f"devices behind {host.interface}",
        "kernel": os.uname().release,
        "congestion": congestion or "the system's own",
        "checks": [check.table() for check in checks],
        "profiles": {address: profile.text() for address, profile in profiles.items()},
        "facts": facts,
    }
