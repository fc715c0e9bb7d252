"""The commands that start the service in production, as they stand in the files: every line that they print is JSON."""

import io
import json
import re
import shlex
import signal
import socket
import subprocess
import tomllib
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from dirty_equals import IsPartialDict, IsStr

from tests import commands
from tests.conftest import API_KEY, ROOT, Serve, eventually, running_service
from tests.postgres import free_port

DOCUMENTATION = "\n".join(path.read_text() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def found(pattern: str, text: str) -> str:
    """Return the one command that the text gives."""
    [command] = set(re.findall(pattern, text, re.MULTILINE))
    return str(command)


DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMMANDS = {
    "Dockerfile": found(r'^CMD \["sh", "-c", "exec (.+)"\]', DOCKERFILE),
    "Procfile": found(r"^web: (.+)", (ROOT / "Procfile").read_text()),
    "render.yaml": found(r"^ +startCommand: (.+)", (ROOT / "render.yaml").read_text()),
    "documentation": found(r"uvicorn app\.main:app [^`\n]*--port[^`\n]*", DOCUMENTATION),
}


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


def test_the_commands_bound_what_a_client_sends_and_holds() -> None:
    # WebSockets, which the service has not, would log their query.
    for command in COMMANDS.values():
        assert "--http app.connections:BoundedProtocol --ws none" in command


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


def test_the_commands_differ_in_address_and_workers_only() -> None:
    def options(command: str) -> dict[str, str]:
        words = shlex.split(command.removeprefix("uv run --no-sync "))
        assert words[:2] == ["uvicorn", "app.main:app"]
        options = dict(zip(words[2::2], words[3::2], strict=True))
        return {name: value for name, value in options.items() if name not in {"--host", "--port", "--workers"}}

    procfile, *others = [options(command) for command in COMMANDS.values()]

    assert others == [procfile] * len(others)


@pytest.mark.parametrize(
    ("command", "workers"),
    [
        pytest.param(COMMANDS["Procfile"], 1, id="Procfile"),
        pytest.param(COMMANDS["Procfile"], 2, id="Procfile with workers"),
        pytest.param(COMMANDS["render.yaml"], 1, id="render.yaml"),
        pytest.param(COMMANDS["Dockerfile"], 1, id="Dockerfile"),
        pytest.param(COMMANDS["documentation"].replace("8000", "$PORT"), 2, id="documentation"),
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
        response = httpx2.get(f"http://127.0.0.1:{port}/health")
        process.send_signal(signal.SIGTERM)
        status = process.wait(commands.TIMEOUT_SECONDS)

    assert response.status_code == 200
    assert status == 0
    events = [record["event"].partition(" [")[0] for record in records(output.read_text())]
    for event in ("Started server process", "Waiting for application startup.", "Finished server process"):
        assert events.count(event) == workers
    assert events.count("Started parent process") == (workers > 1)
    assert events.count("request") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_start_that_refuses_is_json_and_gives_the_reason(workers: int, checkout: Path) -> None:
    output = checkout.parent / "output"
    environment = {"PORT": str(free_port()), "WEB_CONCURRENCY": str(workers), "HISTORY_LIMIT": "many"}

    with commands.running_in_shell(COMMANDS["Procfile"], folder=checkout, output=output, **environment) as process:
        status = process.wait(commands.TIMEOUT_SECONDS)

    if workers == 1:  # With more of them, uvicorn's parent ends with status 0.
        assert status == 3
    refusals = [record for record in records(output.read_text()) if record["level"] == "CRITICAL"]
    assert refusals == [IsPartialDict(event="settings.invalid", reason=IsStr)] * workers
    for refusal in refusals:
        assert [line.split()[0] for line in refusal["reason"].splitlines()[1:]] == [
            "DATABASE_URL",
            "OPENAI_API_KEY",
            "HISTORY_LIMIT",
        ]


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
