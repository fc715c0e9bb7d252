"""The command that starts the service in production, as it stands in the files: every line that it prints is JSON."""

import asyncio
import io
import json
import re
import signal
import socket
import subprocess
import tomllib
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from dirty_equals import IsPartialDict, IsStr

from app import __main__, main
from app.connections import KEEP_ALIVE_SECONDS
from tests import commands
from tests.conftest import API_KEY, ROOT, Serve, eventually, running_service
from tests.patience import PATIENCE_SECONDS
from tests.postgres import free_port

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMMAND = "python -m app"
UVICORNS_KEEP_ALIVE_SECONDS = 5
ON_RENDER = f"uv run --no-sync {COMMAND}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The repository's files without the hidden ones: a developer's `.env` is among them."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for path in ROOT.iterdir():
        if not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    return folder


def records(output: str) -> list[dict[str, Any]]:
    """Return what each line says; fails if one is not a record of the log."""
    lines = [json.loads(line) for line in output.splitlines()]
    assert lines == [IsPartialDict(time=IsStr, level=IsStr, logger=IsStr, event=IsStr)] * len(lines)
    return lines


def test_one_command_starts_the_service_everywhere() -> None:
    [in_image] = re.findall(r"^CMD (.+)", DOCKERFILE, re.MULTILINE)
    on_render = yaml.safe_load((ROOT / "render.yaml").read_text())["services"][0]["startCommand"]

    assert " ".join(json.loads(in_image)) == COMMAND
    assert on_render == ON_RENDER
    assert f"web: {COMMAND}\n" in (ROOT / "Procfile").read_text()
    assert f"Start: `{COMMAND}`\n" in (ROOT / "docs" / "deployment.md").read_text()


def test_the_image_holds_what_the_service_needs_and_nothing_that_is_ignored() -> None:
    copied = {
        source for line in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE) for source in line.split()
    }
    let_in = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))

    assert copied == let_in == {"pyproject.toml", "uv.lock", "alembic.ini", "app", "migrations"}
    assert all((ROOT / source).exists() for source in copied)
    ignored_by_vercel = set((ROOT / ".vercelignore").read_text().split("\n"))
    assert not copied & ignored_by_vercel


@pytest.mark.parametrize(
    ("vercel_env", "migrates"),
    [("production", True), ("preview", False), ("development", False), ("staging", False), ("", False)],
)
def test_only_a_production_build_on_vercel_migrates(vercel_env: str, *, migrates: bool, tmp_path: Path) -> None:
    alembic = tmp_path / "alembic"
    alembic.write_text("#!/bin/sh\necho alembic $@\nexit 3\n")
    alembic.chmod(0o755)
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["vercel"]["scripts"]["build"]

    built = subprocess.run(
        ["sh", "-c", build],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "VERCEL_ENV": vercel_env},
        capture_output=True,
        text=True,
        check=False,
    )

    # A migration that fails must fail the build.
    assert (built.returncode, built.stdout) == (
        (3, "alembic upgrade head\n") if migrates else (0, "Only a production build migrates.\n")
    )


@pytest.mark.parametrize(
    ("environment", "host"),
    [
        ({"FASTAPI_ENV": "development"}, "127.0.0.1"),
        ({"FASTAPI_ENV": "production"}, "0.0.0.0"),
        ({"FASTAPI_ENV": "development", "HOST": "192.0.2.1"}, "192.0.2.1"),
        ({"FASTAPI_ENV": "production", "HOST": "127.0.0.1"}, "127.0.0.1"),
    ],
)
def test_a_developers_service_is_reached_from_their_machine_alone_and_others_from_everywhere(
    environment: dict[str, str], host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: list[str] = []
    monkeypatch.setattr("uvicorn.run", lambda *_, **options: hosts.append(options["host"]))
    for name, value in {"DATABASE_URL": "sqlite:///chat.db", "OPENAI_API_KEY": API_KEY, **environment}.items():
        monkeypatch.setenv(name, value)

    assert (__main__.main(), hosts) == (0, [host])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "http://reader:hunter2-hunter2@proxy:port"),
        ("SSL_CERT_FILE", "/absent/ca.pem"),
    ],
)
def test_proxies_and_certificates_that_cannot_be_used_stop_the_start_with_one_message(
    name: str, value: str, tmp_path: Path
) -> None:
    environment = {"DATABASE_URL": "sqlite:///chat.db", "OPENAI_API_KEY": API_KEY, name: value}
    command = ("-m", "uvicorn", "app.main:app", "--port", "0", "--log-config", ROOT / "app/logging.json")

    status, output = commands.run(*command, folder=tmp_path, **environment)

    [refusal] = [record for record in records(output) if record["level"] == "CRITICAL"]
    assert refusal == IsPartialDict(event="settings.invalid", reason=IsStr(regex=f"(?s).*{name}.*"))
    assert status == 3
    assert "Traceback" not in output
    assert "hunter2" not in output


async def test_a_service_without_a_bound_says_so_at_its_start(serve: Serve) -> None:
    unbounded, bounded = await serve(), await serve(RATE_LIMIT="20/minute")

    [warning] = unbounded.log("openai.unlimited")
    assert (warning["level"], "RATE_LIMIT" in warning["reason"]) == ("WARNING", True)
    assert bounded.log("openai.unlimited") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "workers"),
    [
        pytest.param(COMMAND, 1, id="one process"),
        pytest.param(COMMAND, 2, id="two processes"),
        pytest.param(ON_RENDER, 1, id="on Render"),
    ],
)
async def test_every_line_is_json_from_the_start_to_the_end(
    command: str, workers: int, checkout: Path, postgres_url: str
) -> None:
    port, output = free_port(), checkout.parent / "output"
    environment = {"DATABASE_URL": postgres_url, "OPENAI_API_KEY": API_KEY, "WEB_CONCURRENCY": str(workers)}

    with commands.running_in_shell(command, folder=checkout, output=output, PORT=str(port), **environment) as process:

        async def has_started() -> bool:
            assert process.poll() is None, output.read_text()
            if output.read_text().count("Application startup complete.") < workers:
                return False
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                return True  # The server listens a moment after it has said so.
            return False

        await eventually(has_started, commands.TIMEOUT_SECONDS)
        response = httpx2.get(f"http://127.0.0.1:{port}/health", timeout=PATIENCE_SECONDS)
        process.send_signal(signal.SIGTERM)
        status = process.wait(commands.TIMEOUT_SECONDS)

    assert response.status_code == 200
    assert status == 0
    events = [record["event"].partition(" [")[0] for record in records(output.read_text())]
    for event in ("Started server process", "Waiting for application startup.", "Finished server process"):
        assert events.count(event) == workers
    assert events.count("Started parent process") == (workers > 1)
    assert events.count("request") == 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_start_that_refuses_is_json_and_gives_the_reason(workers: int, checkout: Path) -> None:
    output = checkout.parent / "output"
    environment = {"PORT": str(free_port()), "WEB_CONCURRENCY": str(workers), "HISTORY_LIMIT": "many"}

    with commands.running_in_shell(COMMAND, folder=checkout, output=output, **environment) as process:
        status = process.wait(commands.TIMEOUT_SECONDS)

    assert status == 1
    [refusal] = records(output.read_text())
    assert refusal == IsPartialDict(level="CRITICAL", event="settings.invalid", reason=IsStr)
    assert [line.split()[0] for line in refusal["reason"].splitlines()[1:]] == [
        "DATABASE_URL",
        "OPENAI_API_KEY",
        "HISTORY_LIMIT",
    ]


@pytest.mark.slow
def test_a_port_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    environment = {"DATABASE_URL": "sqlite:///chat.db", "OPENAI_API_KEY": API_KEY, "PORT": "$PORT"}

    status, output = commands.run("-m", "app", folder=tmp_path, **environment)

    assert status == 1
    [refusal] = records(output)
    assert refusal["reason"].splitlines()[1:] == [IsStr(regex=r"  PORT .*valid integer.*")]


@pytest.mark.slow
def test_an_address_that_is_not_this_machines_stops_the_start(tmp_path: Path) -> None:
    environment = {"DATABASE_URL": "sqlite:///chat.db", "OPENAI_API_KEY": API_KEY, "HOST": "192.0.2.1", "PORT": "0"}

    status, output = commands.run("-m", "app", folder=tmp_path, **environment)

    assert status != 0
    [error] = [record for record in records(output) if record["level"] == "ERROR"]
    assert "192.0.2.1" in error["event"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["fastapi dev --no-reload", "fastapi run", "uvicorn app.main:app --port $PORT"])
async def test_other_ways_to_start_it_go_on_working(command: str, checkout: Path) -> None:
    port = free_port()
    environment = {"DATABASE_URL": f"sqlite:///{checkout.parent}/chat.db", "OPENAI_API_KEY": API_KEY, "PORT": str(port)}

    with commands.running_in_shell(
        command, folder=checkout, output=checkout.parent / "output", **environment
    ) as process:

        async def answers() -> bool:
            assert process.poll() is None, (checkout.parent / "output").read_text()
            with suppress(httpx2.ConnectError):
                return httpx2.get(f"http://127.0.0.1:{port}/health/ready", timeout=PATIENCE_SECONDS).status_code == 200
            return False

        await eventually(answers, commands.TIMEOUT_SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(commands.TIMEOUT_SECONDS) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        "import app.__main__; app.__main__.main()",
        "import os, uvicorn; uvicorn.run('app.main:app', port=int(os.environ['PORT']))",
    ],
    ids=["python -m app", "uvicorn app.main:app"],
)
async def test_an_idle_connection_is_kept_for_longer_than_a_proxy_keeps_it(tmp_path: Path, start: str) -> None:
    port = free_port()
    environment = {"DATABASE_URL": "sqlite:///chat.db", "OPENAI_API_KEY": API_KEY, "PORT": str(port)}
    # It is kept for no time at all here, instead of for what the service or uvicorn keep it.
    program = f"import app.connections; app.connections.KEEP_ALIVE_SECONDS = 0; {start}"
    process = commands.start("-c", program, folder=tmp_path, **environment)
    try:

        async def is_closed_at_once() -> bool:
            with suppress(ConnectionRefusedError, TimeoutError):  # It may have been late once.
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
                async with asyncio.timeout(UVICORNS_KEEP_ALIVE_SECONDS - 1):
                    answer = await reader.read()
                writer.close()
                return answer.endswith(b'{"status":"healthy"}')
            return False

        await eventually(is_closed_at_once, commands.TIMEOUT_SECONDS)
    finally:
        process.kill()
        process.communicate()

    assert KEEP_ALIVE_SECONDS > 60


@pytest.mark.slow
def test_without_the_log_config_only_the_first_two_lines_are_text(tmp_path: Path) -> None:
    status, output = commands.run("-m", "uvicorn", "app.main:app", "--port", "0", folder=tmp_path)

    started, waiting, *lines = output.splitlines()
    assert status == 3
    assert started.endswith("]")
    assert waiting.endswith("Waiting for application startup.")
    assert [record["event"] for record in records("\n".join(lines))] == [
        "settings.invalid",
        "Application startup failed. Exiting.",
    ]


async def test_a_developer_reads_why_the_service_refuses_to_start_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_ENV", "development")
    monkeypatch.setenv("HISTORY_LIMIT", "many")
    monkeypatch.setenv("COLUMNS", "200")

    with redirect_stdout(io.StringIO()) as terminal:
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        with pytest.raises(RuntimeError, match="did not start"):
            async with running_service():
                pass

    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert "CRITICAL settings.invalid reason=The service cannot start with these settings:" in plain
    assert "HISTORY_LIMIT" in plain
    assert "Traceback" not in plain


async def test_any_other_failure_to_start_is_one_record_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/no-such-folder/chat.db")
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)

    with redirect_stdout(io.StringIO()) as stdout, pytest.raises(RuntimeError, match="did not start"):
        async with running_service():
            pass

    failed = [record for record in records(stdout.getvalue()) if record["level"] in {"CRITICAL", "ERROR"}]
    assert failed == [
        IsPartialDict(level="CRITICAL", event="service.failed", error_message=IsStr, traceback=IsStr),
        IsPartialDict(level="ERROR", event="Application startup failed. Exiting."),
    ]


@pytest.mark.slow
async def test_a_server_that_runs_no_lifespan_is_told_from_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(main.app), base_url="http://test") as client:
        response = await client.post("/chat", json={"message": "Why?"})

    assert response.status_code == 500
    error = response.json()["error"]
    assert (error["code"], error["request_id"], error["retryable"]) == (
        "internal_error",
        response.headers["X-Request-ID"],
        False,
    )
    assert '"event": "lifespan.missing"' in capsys.readouterr().out
