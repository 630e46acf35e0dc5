"""Which listeners of HTTP a broker has by its settings: WebSocket, metrics, or both at one address."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.broker_config import BrokerConfig
from broker.errors import SettingsError
from broker.listener import TcpListener
from broker.tls import Gate

if TYPE_CHECKING:
    from broker.web import WebListener


def web_listeners(config: BrokerConfig, gate: Gate | None, metrics: Callable[[], str]) -> list[WebListener]:
    """The listeners; SettingsError where there are any and aiohttp is not installed.

    WebSocket is TLS where the broker is. Metrics are plain unless they share WebSocket's address.
    """
    if config.websocket_port is None and config.metrics_port is None:
        return []
    try:
        from broker.web import WebListener  # only now: a broker without HTTP does not need aiohttp
    except ImportError as error:
        key = "metrics_port" if config.websocket_port is None else "websocket_port"
        raise SettingsError(f"{key}: {error.name} is not installed; valid: none, or with splitcom[web]") from None
    found = []
    if config.websocket_port is not None:
        carrier = TcpListener(config.host, config.websocket_port, congestion=config.congestion, gate=gate)
        found.append(WebListener(carrier, config, websocket=True, metrics=metrics if config.shares_web else None))
    if config.metrics_port is not None and not config.shares_web:
        found.append(WebListener(TcpListener(config.metrics_host, config.metrics_port), config, metrics=metrics))
    return found
