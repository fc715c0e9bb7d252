"""How a record is written: JSON for machines, text for people, exceptions with their tracebacks."""

import io
import json
import logging
import os
import pty
import re
import select
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import override

import httpx2
import pytest
from dirty_equals import IsPartialDict, IsStr

from app import logs
from app.config import Settings
from app.logs import JsonFormatter, TextFormatter
from tests.conftest import API_KEY, ROOT, Serve
from tests.fake_openai import (
    FakeOpenAI,
    failure,
)
from tests.marks import on_one_database
from tests.patience import PATIENCE_SECONDS
from tests.postgres import free_port
from tests.records import TIME, chained, failed


@on_one_database
@pytest.mark.parametrize("environment", [{}, {"FASTAPI_ENV": "development"}], ids=["production", "no terminal"])
async def test_every_line_is_one_json_object(
    serve: Serve, model_server: FakeOpenAI, environment: dict[str, str]
) -> None:
    service = await serve(**environment)
    model_server.enqueue(failure(500, "first line\nsecond line"))

    await service.chat("One\nTwo")
    await service.client.get("/a%0Ab", headers={"User-Agent": 'a "quoted" name'})

    lines = [json.loads(line) for line in service.output.splitlines()]
    assert lines == [
        {**line, "time": TIME, "level": IsStr(regex="INFO|WARNING|ERROR"), "logger": IsStr, "event": IsStr}
        for line in lines
    ]
    assert [line["event"] for line in lines][-4:] == ["openai.call", "openai.error", "request", "request"]
    assert lines[-1] == IsPartialDict(path="/a\nb", status=404)


@on_one_database
async def test_the_log_level_silences_what_is_less_severe(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(LOG_LEVEL="error")
    model_server.enqueue(failure(500))

    await service.chat()
    await service.chat()

    assert [(record["level"], record["event"]) for record in service.log()] == [("ERROR", "openai.error")]


class FakeTerminal(io.StringIO):
    @override
    def isatty(self) -> bool:
        return True


def test_a_developer_at_a_terminal_reads_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_ENV", "development")
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    monkeypatch.setenv("COLUMNS", "200")

    with redirect_stdout(FakeTerminal()) as terminal:
        logs.configure(Settings.load())
        logging.getLogger("app.x").info("something.happened", extra={"fields": {"count": 3, "key": API_KEY}})

    assert re.search(r"INFO +something\.happened count=3 key=\*\*\*", without_colours(terminal.getvalue()))


def test_production_at_a_terminal_writes_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///chat.db")
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)

    with redirect_stdout(FakeTerminal()) as terminal:
        logs.configure(Settings.load())
        logging.getLogger("app.x").info("something.happened", extra={"fields": {"count": 3}})

    assert json.loads(terminal.getvalue()) == {
        "time": TIME,
        "level": "INFO",
        "logger": "app.x",
        "event": "something.happened",
        "count": 3,
    }


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def read_until(terminal: int, end: str) -> str:
    """Read what appears on the terminal, up to and with the end."""
    output = ""
    while end not in without_colours(output):
        ready, _, _ = select.select([terminal], [], [], PATIENCE_SECONDS)
        assert ready, output
        output += os.read(terminal, 65_536).decode(errors="replace")
    return output


@pytest.mark.slow
def test_the_development_service_writes_for_people_on_its_terminal(tmp_path: Path) -> None:
    port = free_port()
    terminal, inner_end = pty.openpty()
    command = [sys.executable, "-m", "uvicorn", "app.main:app", "--app-dir", str(ROOT), "--port", str(port)]
    environment = {"FASTAPI_ENV": "development", "TERM": "xterm-256color", "COLUMNS": "400", "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=inner_end, stderr=inner_end, cwd=tmp_path, env=environment
    ) as process:
        try:
            output = read_until(terminal, "Uvicorn running on")
            response = httpx2.post(
                f"http://127.0.0.1:{port}/chat", json={"message": "Zanzibar?"}, timeout=PATIENCE_SECONDS
            )
            output += read_until(terminal, "path=/chat status=200")
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)
            os.close(inner_end)
            os.close(terminal)

    assert response.status_code == 200
    assert "\x1b[" in output
    plain = without_colours(output)
    assert re.search(r"WARNING +openai\.offline reason=", plain)
    assert re.search(r"WARNING +database\.embedded reason=", plain)
    assert re.search(rf"INFO +request request_id={response.headers['X-Request-ID']} session_id=\S+ method=POST", plain)
    assert '{"time"' not in plain
    assert "Zanzibar" not in plain


def test_an_exception_is_recorded_with_its_type_its_message_and_its_traceback() -> None:
    record = json.loads(JsonFormatter().format(failed(ValueError("wrong"), attempt=2)))

    assert record == {
        "time": TIME,
        "level": "ERROR",
        "logger": "app.x",
        "event": "it.failed",
        "attempt": 2,
        "error": "ValueError",
        "error_message": "wrong",
        "traceback": IsStr(
            regex=r'(?s)  File ".*records\.py", line \d+, in failed\n    raise error.*\nValueError: wrong\n'
        ),
    }


def test_the_causes_of_an_exception_come_before_it() -> None:
    traceback = json.loads(JsonFormatter().format(failed(chained(KeyError("effect"), OSError("cause")))))["traceback"]

    assert traceback.index("OSError: cause") < traceback.index("which led to") < traceback.index("KeyError: 'effect'")


def test_the_context_of_an_exception_is_its_cause_unless_it_was_suppressed() -> None:
    effect = KeyError("effect")
    effect.__context__ = OSError("context")
    with_context = JsonFormatter().format(failed(effect))
    effect.__suppress_context__ = True
    without_context = JsonFormatter().format(failed(effect))

    assert "OSError: context" in with_context
    assert "OSError" not in without_context


def test_every_exception_of_a_group_is_recorded() -> None:
    group = ExceptionGroup("both", [chained(ValueError("one"), OSError("cause")), TypeError("two")])

    traceback = json.loads(JsonFormatter().format(failed(group)))["traceback"]

    for line in (
        "ExceptionGroup: both (2 sub-exceptions)\n",
        "OSError: cause\n",
        "ValueError: one\n",
        "TypeError: two\n",
    ):
        assert line in traceback


def test_a_long_message_is_cut() -> None:
    record = json.loads(JsonFormatter().format(failed(ValueError("x" * 5_000))))

    assert record["error_message"] == "x" * 2_000
    assert record["traceback"].endswith(f"\nValueError: {'x' * 2_000}\n")


def test_text_for_people_has_the_same_fields_and_the_traceback_below() -> None:
    text = TextFormatter().format(failed(chained(KeyError("effect"), OSError("cause")), attempt=2))

    first, *below = text.splitlines()
    assert first == "it.failed attempt=2 error=KeyError error_message='effect'"
    assert "OSError: cause" in below
    assert below[-1] == "KeyError: 'effect'"
