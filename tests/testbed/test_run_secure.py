"""A real run over TLS: server and agents show certificates of their own, and reach their own topics only."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.broker.lab import BOTH, SERVERS, Address, Lab
from tests.runs import run_tiny
from tests.testbed.test_processes import arguments, scenario, started

pytestmark = pytest.mark.slow


@BOTH
def test_a_run_with_certificates_learns_what_it_learns_without(kind: str, tiny_base: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab")
    plain = run_tiny(scenario(tiny_base), tmp_path / "memory")
    directory = lab.pki.directory
    channel = {
        "tls_ca": f"{directory}/ca.crt",
        "tls_certificate": f"{directory}/{{name}}.crt",
        "tls_key": f"{directory}/{{name}}.key",
    }
    made = scenario(tiny_base, channel=channel)
    (tmp_path / "run").mkdir()

    def carry_out(address: Address) -> tuple[int, str, str]:
        url = "mqtts://{}:{}".format(*address)
        with started(arguments(made, tmp_path / "run", "--json", "--broker", url), stdout=-1) as process:
            out, complaint = process.communicate()
        return process.returncode, out, complaint

    async def main() -> None:
        async with SERVERS[kind](lab.tls(policy="devices"), tmp_path) as address:
            status, out, complaint = await asyncio.to_thread(carry_out, address)
            assert status == 0, complaint
            assert json.loads(out)["perplexity"] == plain["perplexity"]

    asyncio.run(main())
