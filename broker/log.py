"""The broker's log: what happens as events with fields, in lines for people or as JSON for machines."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from broker.reasons import Reason

LogFormat = Literal["text", "json"]

MAX_CHARACTERS = 256
"""Of a field; clients choose some of them, and a client id may have 65,535 bytes."""
ELLIPSIS = "..."

_log = logging.getLogger("broker")
_PLAIN = re.compile(r"[\w./:@+#$-]+", re.ASCII)


def told(event: str, *, code: int | None = None, **fields: Any) -> None:
    """Log an event with its fields; those that are None or empty are left out, and long texts are cut.

    A reason code is shown as its number, and as `reason` by its name unless another reason is given.
    """
    if _log.isEnabledFor(logging.INFO):
        if code is not None:
            fields = {"reason": _label(code)} | fields | {"code": f"0x{code:02X}"}
        known = {name: _cut(value) for name, value in fields.items() if value not in (None, "")}
        _log.info("%s", line(event, known), extra={"told": {"event": event, **known}})


def line(event: str, fields: Mapping[str, Any]) -> str:
    """`event: name=value name=value`; values that are no plain words are quoted, without a control character."""
    return f"{event}: " + " ".join(f"{name}={_word(value)}" for name, value in fields.items())


def start(form: LogFormat, level: int) -> None:
    """Send the log of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMATTERS[form]())
    logging.basicConfig(handlers=[handler], level=level)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (UTC), `event` and its fields; other records are events named `log`."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {"time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")}
        told: dict[str, Any] | None = record.__dict__.get("told")
        if told is not None:
            event |= told
        else:
            event |= {"event": "log", "level": record.levelname.lower(), "text": record.getMessage()}
            if record.exc_info:
                event["trace"] = self.formatException(record.exc_info)
        return json.dumps(event, separators=(",", ":"), default=str)


class TextFormatter(logging.Formatter):
    """The time and the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s")


_FORMATTERS: dict[LogFormat, Callable[[], logging.Formatter]] = {"text": TextFormatter, "json": JsonFormatter}


def _label(code: int) -> str | None:
    try:
        return Reason(code).label
    except ValueError:
        return None


def _cut(value: Any) -> Any:
    """A text of at most MAX_CHARACTERS, and so the names within a field that has parts; anything else as it is."""
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        return value[: MAX_CHARACTERS - len(ELLIPSIS)] + ELLIPSIS
    if isinstance(value, dict):
        return {_cut(name): part for name, part in value.items()}
    return value


def _word(value: Any) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
