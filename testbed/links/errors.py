"""What goes wrong with emulated links."""

from __future__ import annotations

from broker.errors import BrokerError


class LinkError(BrokerError):
    """A link that cannot be made, changed or measured as asked; the message is one line for the user."""
