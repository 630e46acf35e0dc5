"""The back-ends by name, each imported when it is used: the kernel's need Linux and pyroute2, the proxy neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed.links.base import LinkBackend
from testbed.links.profile import LinkProfile
from testbed.links.traces import Way

# (client, way, bit/s): told whenever a rate that varies is set anew.
OnRate = Callable[[str, Way, float], None]


@dataclass(frozen=True)
class LinksOfRun:
    """What a back-end is made from: the run, each client's profile, TCP's congestion control, the emulator's log."""

    run: str
    profiles: Mapping[str, LinkProfile]
    congestion: str
    log: Path
    on_rate: OnRate
    seed: int = 0


def _none(links: LinksOfRun) -> LinkBackend:
    from testbed.links.none import Unshaped

    return Unshaped(links.congestion)


def _netns(links: LinksOfRun) -> LinkBackend:
    from testbed.links.netns import Netns

    return Netns(links.run, links.profiles, links.on_rate, links.congestion)


def _tun(links: LinksOfRun) -> LinkBackend:
    from testbed.links.tun import Tun

    return Tun(links.run, links.profiles, links.log, links.congestion, links.seed)


def _proxy(links: LinksOfRun) -> LinkBackend:
    from testbed.links.proxy import Proxy

    return Proxy(links.profiles, links.log, links.congestion, links.seed)


LINKS: dict[str, Callable[[LinksOfRun], LinkBackend]] = {
    "none": _none,
    "netns": _netns,
    "tun": _tun,
    "proxy": _proxy,
}
