"""What a client shows a broker, and what it wants to see of it, from the settings of its channel."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from broker.channel import ChannelConfig
from broker.errors import SettingsError
from broker.tls import SYSTEM, client_context


@dataclass(frozen=True)
class Credentials:
    """User name and password, None without; `context` is TLS's, None for a plain connection."""

    username: str | None = None
    password: str | None = None
    context: ssl.SSLContext | None = None

    @classmethod
    def of(cls, config: ChannelConfig, name: str, secure: bool = False) -> Credentials:
        """Those of the end called `name`, with TLS where it is `secure` or the settings name files for it.

        Raises SettingsError for files that cannot be used.
        """
        username, password_file, ca, certificate, key = (
            text.replace("{name}", name)
            for text in (
                config.username,
                config.password_file,
                config.tls_ca,
                config.tls_certificate,
                config.tls_key,
            )
        )
        context = None
        if secure or ca or certificate:
            context = client_context(ca or SYSTEM, certificate, key)
        return cls(username or None, _read(password_file) if password_file else None, context)


def _read(path: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"password_file: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"password_file: {path}: no text in UTF-8") from None
    if not lines or not lines[0]:
        raise SettingsError(f"password_file: {path}: the first line is empty; valid: the password")
    return lines[0]
