"""Decides on clients by users, certificates and access rules: the authority of a broker that has any of them.

A client is known by the name in its verified certificate, else by a user name whose password fits. A password takes
some 50 ms to check, so that is done in threads, a few at a time; when too many wait, further clients are told to come
back later.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from broker.acl import DEVICES, AccessList, holds_wildcard, read_acl
from broker.authority import Anyone, Authority, Everything, Grants, Peer
from broker.broker_config import BrokerConfig
from broker.errors import ProtocolError
from broker.packets import Connect
from broker.reasons import Reason
from broker.users import User, Users

CHECKS = max(1, (os.cpu_count() or 2) - 1)
"""Passwords that are checked at once; one processor is left to everybody who is connected already."""
MAX_WAITING = 256
"""Clients whose password waits to be checked."""


@dataclass(frozen=True)
class Client:
    """Who was let in: by a certificate of this name, by a password that `user` holds the hash of, or by neither."""

    client_id: str
    name: str | None = None
    user: User | None = None


def authority_of(config: BrokerConfig) -> Authority:
    """Who decides in a broker of these settings; raises SettingsError for files that cannot be used."""
    if config.authenticates or config.acl or config.tls_ca:
        return Guard(config)
    return Anyone()


class Guard:
    """Implements `Authority` by the settings `users`, `acl`, `policy` and those of TLS. Raises SettingsError.

    Refuses with 0x86 for a name and password that do not belong together, 0x85 for a client id that is not the
    client's own, 0x89 when too many wait, and 0x87 otherwise.
    """

    def __init__(self, config: BrokerConfig) -> None:
        self._config = config
        self._pool = ThreadPoolExecutor(CHECKS, thread_name_prefix="passwords")
        self._waiting = 0
        self._clients: WeakKeyDictionary[Grants, Client] = WeakKeyDictionary()
        self.reload()

    def reload(self, other_certificates: bool = False) -> None:
        """Read users and rules again; SettingsError, and nothing has changed.

        With `other_certificates`, those that were good may not be any more.
        """
        config = self._config
        users = Users.load(config.users) if config.users else None
        rules = AccessList(DEVICES, "policy") if config.policy == "devices" else None
        if config.acl:
            rules = rules or AccessList()
            rules.add(read_acl(config.acl), f"acl: {config.acl}")
        self._users, self._rules, self._other_certificates = users, rules, other_certificates

    def close(self) -> None:
        """Let go of the threads; passwords that wait are not checked any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def admit(self, connect: Connect, peer: Peer) -> Grants | Awaitable[Grants]:
        """What the client may do, at once where no password has to be checked."""
        if peer.certificate is not None:
            return self._grants(Client(connect.client_id, peer.certificate))
        if self._users is None:
            if self._config.tls_require:
                raise ProtocolError("a certificate with a name is needed", Reason.NOT_AUTHORIZED)
            return self._grants(Client(connect.client_id))
        if connect.username is None:
            raise ProtocolError("a user name and a password are needed", Reason.NOT_AUTHORIZED)
        return self._checked(self._users, connect.client_id, connect.username, connect.password or b"")

    def renew(self, grants: Grants) -> Grants:
        """What a client that was let in may do since `reload`; ProtocolError where it would not be let in any more."""
        client = self._clients.get(grants)
        if client is None:  # whose session comes from the store; it has rights of its own when it is back
            return grants
        if client.user is not None and client.user != (self._users or Users()).get(client.name or ""):
            raise ProtocolError("the password has changed", Reason.NOT_AUTHORIZED)
        if client.name is not None and client.user is None and self._other_certificates:
            # Only a handshake tells whether a certificate is still good, so the client has to make another one.
            raise ProtocolError("certificates have been revoked", Reason.ADMINISTRATIVE_ACTION)
        return self._grants(client)

    async def _checked(self, users: Users, client_id: str, name: str, password: bytes) -> Grants:
        if self._waiting >= MAX_WAITING:
            raise ProtocolError("too many clients wait to be let in", Reason.SERVER_BUSY)
        self._waiting += 1
        try:
            fits = await asyncio.get_running_loop().run_in_executor(self._pool, users.check, name, password)
        finally:
            self._waiting -= 1
        if self._users is not None and self._users is not users:  # they were read again meanwhile
            return await self._checked(self._users, client_id, name, password)
        if not fits:
            raise ProtocolError("no such user name and password", Reason.BAD_USER_NAME_OR_PASSWORD)
        return self._grants(Client(client_id, name, users[name]))

    def _grants(self, client: Client) -> Grants:
        name, rules = client.name, self._rules
        if self._config.binds_client_ids and not is_own_client_id(client.client_id, name or ""):
            raise ProtocolError("the client id is not this client's own", Reason.CLIENT_ID_NOT_VALID)
        if rules and rules.uses("%u") and name is not None and holds_wildcard(name):
            raise ProtocolError("a user name with + # or / has no rights", Reason.NOT_AUTHORIZED)
        if rules and rules.uses("%c") and holds_wildcard(client.client_id):
            raise ProtocolError("a client id with + # or / has no rights", Reason.CLIENT_ID_NOT_VALID)
        grants: Grants = rules.permissions(name, client.client_id) if rules else Everything()
        self._clients[grants] = client
        return grants


def is_own_client_id(client_id: str, name: str) -> bool:
    """Whether the client id is the name, or `sc-RUN-NAME` of any run.

    A name with a hyphen has none: `sc-a-b-c` could belong to `c` and to `b-c`, and whoever connects with the client id
    of another ends the other's connection.
    """
    own = re.fullmatch(f"(sc-.+-)?{re.escape(name)}", client_id)
    return own is not None and name != "" and "-" not in name
