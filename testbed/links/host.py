"""Physical devices shaped from this machine, by their IPv4 addresses: the back-end `host`.

The shaping has no process: it lasts until it is removed, and the record says what was there before. Traffic between two
devices does not pass here and is not shaped; nor is IPv6.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import replace

from testbed.links import holders, interfaces, snapshot
from testbed.links import operations as op
from testbed.links.base import VARYING
from testbed.links.capabilities import capabilities, why_not
from testbed.links.errors import LinkError
from testbed.links.holders import check_standing, holder
from testbed.links.host_view import HostView
from testbed.links.kernel import Kernel
from testbed.links.operations import Operation
from testbed.links.profile import LinkProfile
from testbed.links.registry import INTERFACE, Owner
from testbed.links.turn import alone

MINOR, MINOR_MAX = 0x10, op.NETEM - 1


class Host(HostView):
    """The devices behind one interface, shaped; all that it knows is in the record, so any process may go on with it.

    All methods raise LinkError.
    """

    async def set(self, address: str, profile: LinkProfile, force: bool = False, holding: bool = False) -> list[str]:
        """Shape a device, or change its profile while what waits in its queues stays.

        With `force` queueing that somebody else set up is put aside until `remove`; what is known already not to come
        back then is returned, a line each. With `holding` it is for as long as this process wants: it plays the rates
        that vary, nobody else can change the link, and `release` gives it back.
        """
        check_standing(profile, holding)
        refusal = why_not("host", profile.needs - {VARYING}, await asyncio.to_thread(capabilities))
        if refusal is not None:
            raise LinkError(refusal)
        async with alone(), Kernel() as kernel:
            old = self._record()
            new, operations = await self._plan(kernel, old, address, profile, force, holding)
            new.write()
            try:
                await kernel.run(operations)
            except BaseException:
                await self._undo(kernel, old, new, address)
                raise
        return [] if old else [f"{text} cannot be restored" for text in new.before["queueing"]["lost"]]

    async def release(self, address: str) -> list[str]:
        """Give a device that this process holds the profile that it had before, or `clear` it where it had none.

        Nothing is done where somebody has cleared it meanwhile.
        """
        link = self._links().get(address)
        held = holder(link)
        if link is None or held is None or not held.mine:
            return []
        before = holders.configured(link)
        return await (self.clear(address) if before is None else self.set(address, before))

    async def plan(
        self, address: str, profile: LinkProfile, force: bool = False, holding: bool = False
    ) -> list[Operation]:
        """What `set` would do now."""
        check_standing(profile, holding)
        async with Kernel() as kernel:
            return (await self._plan(kernel, self._record(), address, profile, force, holding))[1]

    async def clear(self, address: str) -> list[str]:
        """Shape a device no longer; after the last one everything is removed. What `remove` returns is returned."""
        async with alone(), Kernel() as kernel:
            record = self._record_with(address)
            dropped = await self._drop(kernel, record, address)
            if dropped is None:
                return await self._remove(kernel, record)
            await kernel.run(dropped)
            replace(record, links={name: link for name, link in record.links.items() if name != address}).write()
            return []

    async def remove(self) -> list[str]:
        """Shape no device any longer and restore what was there before; what could not be, a line each.

        Nothing is done where nothing is recorded; what is missing already is passed over.
        """
        async with alone(), Kernel() as kernel:
            record = self._record()
            return await self._remove(kernel, record) if record else []

    async def plan_removal(self, address: str | None = None) -> list[str]:
        """The commands that `clear` of a device, or `remove` without one, would come to now.

        What is restored over netlink without a command is told in brackets.
        """
        async with Kernel() as kernel:
            record = self._record() if address is None else self._record_with(address)
            if record is None:
                return []
            dropped = None if address is None else await self._drop(kernel, record, address)
            operations, _, touched = await self._removal(kernel, record) if dropped is None else (dropped, [], False)
            restored = snapshot.names(record.before["queueing"]) if touched else []
            return [operation.text for operation in operations] + [f"(netlink) add {name}" for name in restored]

    async def _plan(
        self, kernel: Kernel, old: Owner | None, address: str, profile: LinkProfile, force: bool, holding: bool
    ) -> tuple[Owner, list[Operation]]:
        """The record with the device at the profile, and what makes it true, whatever is there now."""
        message = await interfaces.shapeable(await kernel.within(self.namespace), self.interface, address)
        state, trees = await self._trees.state(kernel), self._trees
        if old is None:
            foreign = trees.foreign(state)
            if foreign and not force:
                raise LinkError(foreign)
            before = {"queueing": state.interface, "gso_max_segs": message.get_attr("IFLA_GSO_MAX_SEGS")}
            record = Owner(INTERFACE + self.interface, "host", interface=self.interface, before=before)
        else:
            record = old
        was = record.links.get(address)
        minor = was["minor"] if was else self._free(record)
        link = holders.link(was, f"{self.interface}/{address}", minor, address, profile, holding)
        new = replace(record, links=record.links | {address: link})
        if old is None or not state.whole:
            gone, others = trees.remove(state, record.before["queueing"])
            if others:
                raise LinkError(f"{others[0]}; valid: `splitcom link clear {self.interface}` before")
            return new, gone + trees.make() + [each for made in new.links.values() for each in trees.add(made)]
        if was and state.shapes(minor):
            return new, trees.change(was, link)
        return new, trees.drop(state, link) + trees.add(link)

    def _free(self, record: Owner) -> int:
        """A number that no device has."""
        used = {link["minor"] for link in record.links.values()}
        minor = next(number for number in itertools.count(MINOR) if number not in used)
        if minor > MINOR_MAX:
            raise LinkError(f"{self.interface} has room for {MINOR_MAX - MINOR + 1} devices, and all of it is taken")
        return minor

    async def _undo(self, kernel: Kernel, old: Owner | None, new: Owner, address: str) -> None:
        """Back to the old record after a failure on the way to the new one."""
        if old is None:
            await self._remove(kernel, new)
            return
        old.write()
        with contextlib.suppress(LinkError):  # what is told is why the change failed
            if address in old.links:
                link = old.links[address]
                await kernel.run(self._trees.change(link, link))
            else:
                await kernel.run(self._trees.drop(await self._trees.state(kernel), new.links[address]))

    async def _drop(self, kernel: Kernel, record: Owner, address: str) -> list[Operation] | None:
        """What removes one device; None where nothing stays without it."""
        if len(record.links) == 1 or self.interface not in await self._devices(kernel):
            return None
        return self._trees.drop(await self._trees.state(kernel), record.links[address])

    async def _remove(self, kernel: Kernel, record: Owner) -> list[str]:
        """What `remove` does; the record goes last."""
        operations, told, touched = await self._removal(kernel, record)
        await kernel.run(operations)
        if touched:
            index = await (await kernel.within(self.namespace)).index(self.interface)
            told += snapshot.restore(self.namespace, index, record.before["queueing"])
        record.forget()
        return told

    async def _removal(self, kernel: Kernel, record: Owner) -> tuple[list[Operation], list[str], bool]:
        """What removes everything, what is told about it, and whether the queueing before has to be restored then."""
        devices, ifb, before = await self._devices(kernel), self._trees.ifb, record.before["queueing"]
        if self.interface not in devices:
            gone = [op.delete_device(self.namespace, ifb)] if ifb in devices else []
            return gone, [f"{self.interface} is gone, and its queueing with it"], False
        state = await self._trees.state(kernel)
        touched = state.interface != before  # a crash may have come before the first change
        if not touched:
            state = replace(state, interface=snapshot.DEFAULT)
        operations, told = self._trees.remove(state, before)
        restored = op.set_gso(self.namespace, self.interface, record.before["gso_max_segs"])
        return [*operations, restored], told, touched
