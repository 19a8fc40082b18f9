"""How log records look: lines for a person, JSON objects for a machine. Neither can be split by what a caller sent."""

import json
import logging
import sys
import time
from typing import Any, Final, Literal

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a record's `extra` becomes members. Times are UTC."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """The line; JSON escapes whatever could break it."""
        document: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=True, default=str)


class TextFormatter(logging.Formatter):
    """A line for a person; control characters are escaped, so that no input forges a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, followed by the traceback where there is one."""
        extra = "".join(f" {name}={value}" for name, value in _extra(record).items())
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower():7} {record.getMessage()}{extra}"
        line = line.encode("unicode_escape").decode("ascii") if not line.isprintable() else line
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(*, level: str, style: Literal["text", "json"] | None) -> None:
    """Sends the process's log to standard error; `style` None: text on a terminal, else JSON."""
    chosen = style or ("text" if sys.stderr.isatty() else "json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if chosen == "text" else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _OWN}
