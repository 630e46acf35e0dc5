"""Operations that take what a device receives through another device, where it can be queued."""

from __future__ import annotations

from testbed.links.operations import INGRESS, ROOT, Netlink, Operation

_ANY_PROTOCOL = 0x0003


def add_ingress(namespace: str, device: str) -> Operation:
    """Where filters can catch what a device receives."""

    async def apply(net: Netlink) -> None:
        await net.ipr.tc("add", "ingress", await net.index(device), INGRESS)

    return Operation(namespace, f"tc qdisc add dev {device} handle ffff: ingress", apply)


def redirect_ingress(namespace: str, device: str, to: str) -> Operation:
    """Send everything that a device receives through another one first."""

    async def apply(net: Netlink) -> None:
        action = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": await net.index(to)}
        await net.ipr.tc(
            "add-filter",
            "u32",
            await net.index(device),
            parent=INGRESS,
            protocol=_ANY_PROTOCOL,
            target=ROOT,
            keys=["0x0/0x0+0"],
            action=action,
        )

    return Operation(
        namespace,
        f"tc filter add dev {device} parent ffff: protocol all u32 match u32 0 0 flowid 1: "
        f"action mirred egress redirect dev {to}",
        apply,
    )
