import json
import logging
import sys

import pytest

from service.log_config import JsonFormatter, TextFormatter, configure


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "guest_sessions.test", "levelno": logging.INFO, "levelname": "INFO", **extra})
    made.msg, made.created, made.msecs = message, 1_800_000_000.25, 250.0
    return made


def test_a_json_line_carries_time_level_message_and_extras() -> None:
    line = JsonFormatter().format(record("hello", path="/v1/issue"))

    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "info",
        "logger": "guest_sessions.test",
        "message": "hello",
        "path": "/v1/issue",
    }


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_what_a_caller_sent_cannot_forge_a_line(formatter: logging.Formatter) -> None:
    line = formatter.format(record("a\nforged", path="/\r\n\x1b[31m\x00\u2028x"))

    assert line.isprintable()
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_traceback_is_reported(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("the cause")  # noqa: TRY301 - a traceback is needed
    except ValueError:
        line = formatter.format(record("broken", exc_info=sys.exc_info()))

    assert "the cause" in line


def test_the_level_and_the_style_are_as_configured(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    try:
        configure(level="warning", style="text")
        logging.getLogger("guest_sessions.test").warning("seen")
        logging.getLogger("guest_sessions.test").info("unseen")
        configure(level="info", style=None)
        logging.getLogger("guest_sessions.test").info("as json")
    finally:
        root.handlers, root.level = handlers, level

    text, as_json = capfd.readouterr().err.splitlines()
    assert text.endswith("warning seen")
    assert json.loads(as_json)["message"] == "as json"
