"""Packets of TUN devices through flows: each client's device to the server's, and back by address."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from testbed.links import namespaces
from testbed.links.alarm import Alarm
from testbed.links.flow import Flow
from testbed.links.profile import LinkProfile, from_table

_SETIFF, _TUN, _NO_HEADER = 0x400454CA, 0x0001, 0x1000
PACKET_BYTES_MAX = 65_536
BATCH = 64  # packets read at once, so that no device keeps the others waiting
_DESTINATION = slice(16, 20)
_IPV4 = 0x40


def open_tun(device: str) -> int:
    """A TUN device of the namespace that this thread is in; it lives as long as the descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _SETIFF, struct.pack("16sH22x", device.encode(), _TUN | _NO_HEADER))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class TunEmulator:
    """All links of a run. `strays` are packets that belong to no link: not IPv4, or to an address that nobody has."""

    def __init__(self, alarm: Alarm, server: Mapping[str, Any], clients: Mapping[str, Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self.strays = 0
        self.flows: dict[str, dict[str, Flow[bytes]]] = {}
        self._descriptors: list[int] = []
        self._routes: dict[bytes, Flow[bytes]] = {}
        try:
            self._open(alarm, server, clients)
        except BaseException:
            self.close()
            raise

    def _open(self, alarm: Alarm, server: Mapping[str, Any], clients: Mapping[str, Any]) -> None:
        to_server = self._device(server)
        for name, client in clients.items():
            to_client = self._device(client)
            profile, seed = from_table(client["profile"], Path()), client["seed"]
            up = Flow(alarm, profile, "up", 2 * seed, self._writer(to_server))
            down = Flow(alarm, profile, "down", 2 * seed + 1, self._writer(to_client))
            self.flows[name] = {"up": up, "down": down}
            self._routes[socket.inet_aton(client["address"])] = down
            self._loop.add_reader(to_client, self._from_client, to_client, up)
        self._loop.add_reader(to_server, self._from_server, to_server)

    def _device(self, end: Mapping[str, Any]) -> int:
        descriptor = namespaces.within(end["namespace"], lambda: open_tun(end["device"]))
        self._descriptors.append(descriptor)
        return descriptor

    def _writer(self, descriptor: int) -> Callable[[bytes], bool]:
        def write(packet: bytes) -> bool:
            try:
                os.write(descriptor, packet)
            except OSError:
                return False  # the device is down, or its own queue is full
            return True

        return write

    def _from_client(self, descriptor: int, flow: Flow[bytes]) -> None:
        for packet in self._packets(descriptor):
            if packet[0] & 0xF0 == _IPV4:
                flow.put(len(packet), packet)
            else:
                self.strays += 1

    def _from_server(self, descriptor: int) -> None:
        for packet in self._packets(descriptor):
            flow = self._routes.get(packet[_DESTINATION]) if packet[0] & 0xF0 == _IPV4 else None
            if flow is None:
                self.strays += 1
            else:
                flow.put(len(packet), packet)

    def _packets(self, descriptor: int) -> Iterator[bytes]:
        for _ in range(BATCH):
            try:
                packet = os.read(descriptor, PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                # Somebody removed the device: its descriptor is ready for ever, and has nothing to read.
                self._loop.remove_reader(descriptor)
                return
            if not packet:
                return
            yield packet

    def change(self, name: str, profile: LinkProfile) -> None:
        """Give a client's link another profile."""
        for flow in self.flows[name].values():
            flow.change(profile)

    def close(self) -> None:
        """Close the devices, which are gone then."""
        for descriptor in self._descriptors:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        self._descriptors.clear()
