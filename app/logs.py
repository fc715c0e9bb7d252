"""Structured logging: one record for each thing that happened, without readers' words and without secrets.

Records are `logger.info("dotted.event", extra={"fields": {…}})`. In production each becomes a line of JSON on stdout.
"""

import json
import logging
import re
import sys
import time
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, override

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import Environment, Settings, SettingsError

logger = logging.getLogger(__name__)

_WELL_FORMED_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LOGGED_HEADERS = frozenset(
    {
        *("host", "origin", "user-agent", "accept", "accept-language", "content-type", "content-length"),
        *("traceparent", "via", "cf-ray", "rndr-id", "x-vercel-id", "x-amzn-trace-id"),
    }
)
"""The headers that help an operator: what the client is and sends, and the platform's own ids. All others can be private."""
_LONGEST_VALUE = 100
"""How much of a header, the path or the method is logged."""
_LONGEST_MESSAGE = 2_000
_LONGEST_LINE = 16_000
_QUOTATION_LENGTH = 12
"""A text that shares so many characters in a row with a confidential one quotes it."""
_SHORTEST_CONFIDENTIAL = 4
"""Shorter texts and secrets are not looked for: they stand in every record by chance."""


@dataclass
class RequestContext:
    """What is known about the request that is being served; records that are written meanwhile show its ids."""

    request_id: str
    session_id: uuid.UUID | None = None
    database_statements: int = 0
    database_seconds: float = 0.0
    confidential: list[str] = field(default_factory=list)
    """The texts of readers and the answers to them, which no record may quote."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Further fields of its `request` record."""


_current: ContextVar[RequestContext | None] = ContextVar("request", default=None)


def current_request() -> RequestContext:
    """Return the context of the request that is being served, or an empty one outside of requests."""
    return _current.get() or RequestContext(request_id="")


def keep_out_of_log(*texts: str | None) -> None:
    """While this request is served, keep quotations of these texts out of the log; None is no text."""
    current_request().confidential += [text for text in texts if text]


def configure(settings: Environment) -> None:
    """Send the records of the service and of its server to stdout: as JSON, or through rich on a developer's terminal.

    The environment alone is enough until all settings are known; then the level is INFO, and there are no secrets yet.
    Before this is called, and in the parent process of several workers, the server logs as `logging.json` says.
    """
    level, secrets = (settings.log_level, settings.secrets) if isinstance(settings, Settings) else ("INFO", [])
    handler: logging.Handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(secrets))
    if settings.development and sys.stdout.isatty():
        from rich.logging import RichHandler  # noqa: PLC0415  # A development dependency.

        handler = RichHandler(show_path=False)
        handler.setFormatter(TextFormatter(secrets))
    logging.root.handlers = [handler]
    # Below WARNING, some libraries log the parameters of statements.
    logging.root.setLevel(max(logging.WARNING, logging.getLevelName(level)))
    for name in ("app", "uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(level)
    logging.getLogger("app.pool.ConnectionPool").setLevel(logging.WARNING)  # SQLAlchemy's own lines.
    # The "request" record says more, and leaves the query string out.
    logging.getLogger("uvicorn.access").setLevel(logging.CRITICAL)


class Untrusted(str):
    """A field's value that comes from outside; like an exception's message, it is withheld if it quotes the reader."""

    __slots__ = ()


class EventFormatter(logging.Formatter):
    """Collects the fields of a record: the ids of request and session, its own fields, and what an exception says."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        super().__init__()
        secrets = [secret for secret in secrets if len(secret) >= _SHORTEST_CONFIDENTIAL]
        self._spellings = {spelling for secret in secrets for spelling in (secret, json.dumps(secret)[1:-1])}

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the record's fields, among them an exception's type, message and traceback."""
        request = current_request()
        fields: dict[str, Any] = {}
        if request.request_id:
            fields["request_id"] = request.request_id
        if request.session_id:
            fields["session_id"] = str(request.session_id)
        for name, value in getattr(record, "fields", {}).items():
            fields[name] = self._without_quotation(value) if isinstance(value, Untrusted) else value
        if record.exc_info and (error := record.exc_info[1]):
            fields["error"] = _name(error)
            fields["error_message"] = self._without_quotation(str(error))
            fields["traceback"] = "".join(self._traceback(error))
        return fields

    def redact(self, text: str) -> str:
        """Return the text without the configured secrets."""
        for spelling in self._spellings:
            text = text.replace(spelling, "***")
        return text

    def _traceback(self, error: BaseException) -> Iterator[str]:
        """Yield the traceback as Python prints it, causes first, without messages that quote the reader."""
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause:
            yield from self._traceback(cause)
            yield "\nwhich led to:\n\n"
        yield from traceback.format_tb(error.__traceback__)
        yield f"{_name(error)}: {self._without_quotation(str(error))}\n"
        if isinstance(error, BaseExceptionGroup):
            for member in error.exceptions:
                yield from self._traceback(member)

    def _without_quotation(self, message: str) -> str:
        """Return the message without secrets and no longer than useful, or a note in its place if it quotes the reader."""
        message = self.redact(message)[:_LONGEST_MESSAGE]
        return "(withheld: the message quotes the reader)" if _quotes_reader(message) else message


class JsonFormatter(EventFormatter):
    """Writes a record as one line of JSON: time (UTC), level, logger, event and the fields."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": _event(record),
        } | self.fields(record)
        line = self.redact(json.dumps(entry, default=str))
        return line if len(line) <= _LONGEST_LINE else self._shortened(entry)

    def _shortened(self, entry: dict[str, Any]) -> str:
        """Return the line with as many of its texts cut as it takes, the longest first."""
        texts = [name for name, value in entry.items() if isinstance(value, str)]
        for name in sorted(texts, key=lambda name: len(json.dumps(entry[name])), reverse=True):
            entry[name] = f"{entry[name][-_LONGEST_VALUE:]} (shortened)"
            line = self.redact(json.dumps(entry, default=str))
            if len(line) <= _LONGEST_LINE:
                break
        return line


class TextFormatter(EventFormatter):
    """Writes a record for people: the event, `name=value` for each field, and the traceback below."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        trace = fields.pop("traceback", None)
        line = " ".join([_event(record), *(f"{name}={value}" for name, value in fields.items())])
        return self.redact(f"{line}\n{trace}" if trace else line)


def _event(record: logging.LogRecord) -> str:
    """Return what happened; the server's own lines can name an address, whose query is the reader's."""
    message = record.getMessage()
    return re.sub(r"\?\S+", "?…", message) if record.name.startswith("uvicorn") else message


def _name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")


def _quotes_reader(message: str) -> bool:
    """Whether the message quotes a confidential text of the request, or holds all of a short one."""
    message = _without_escapes(message)
    for text in map(_without_escapes, set(current_request().confidential)):
        length = min(_QUOTATION_LENGTH, len(text))
        runs = (message[start : start + length] for start in range(len(message) - length + 1))
        if length >= _SHORTEST_CONFIDENTIAL and any(run in text for run in runs):
            return True
    return False


def _without_escapes(text: str) -> str:
    """Return the text in a spelling that does not depend on how often it was escaped."""
    return json.dumps(text)[1:-1].replace("\\", "")


class StartLogMiddleware:
    """Logs why the service failed to start or to stop, in place of Starlette's traceback, which the server logs as text."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the lifespan."""
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return

        async def send_without_traceback(message: Message) -> None:
            message.pop("message", None)
            await send(message)

        try:
            await self.app(scope, receive, send_without_traceback)
        except SettingsError as error:
            logger.critical("settings.invalid", extra={"fields": {"reason": str(error)}})
            raise
        except BaseException as error:
            logger.critical("service.failed", exc_info=error)
            raise


class RequestLogMiddleware:
    """Gives each request an id, sends it with the response, and writes the `request` record once the response has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        given_id = headers.get("x-request-id", "")
        request = RequestContext(given_id if _WELL_FORMED_REQUEST_ID.fullmatch(given_id) else str(uuid.uuid4()))
        token = _current.set(request)
        status: int | None = None
        received = 0

        async def receive_and_count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request.request_id
            await send(message)

        try:
            await self.app(scope, receive_and_count, send_with_id)
        finally:
            fields = {
                "method": scope["method"][:_LONGEST_VALUE],
                "path": scope["path"][:_LONGEST_VALUE],
                "status": status,
                "duration_ms": milliseconds(time.perf_counter() - started),
                "body_bytes": received,
                "headers": {name: value[:_LONGEST_VALUE] for name, value in headers.items() if name in _LOGGED_HEADERS},
                "database_statements": request.database_statements,
                "database_ms": milliseconds(request.database_seconds),
                **request.fields,
            }
            logger.info("request", extra={"fields": fields})
            _current.reset(token)


def milliseconds(seconds: float) -> float:
    """Return a duration as records show it: in milliseconds, with two decimals."""
    return round(seconds * 1000, 2)
