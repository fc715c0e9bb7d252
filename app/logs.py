"""Structured logging: one record per thing that happened, never a reader's words and never a secret.

Records are `logger.info("dotted.event", extra={"fields": {…}})`. In production each becomes a line of JSON on stdout.
"""

import json
import logging
import re
import sys
import time
import traceback
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, override

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import Environment, Settings, SettingsError

logger = logging.getLogger(__name__)

_WELL_FORMED_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PRIVATE_HEADER = re.compile(r"auth|cookie|key|password|secret|session|token")
_LONGEST_EXCEPTION_MESSAGE = 2_000
_TELLING_RUN = 12
_SHORTEST_CONFIDENTIAL = 4


@dataclass
class RequestContext:
    """What is known of the request that is being served; the records written meanwhile carry it."""

    request_id: str
    session_id: uuid.UUID | None = None
    database_statements: int = 0
    database_seconds: float = 0.0
    confidential: list[str] = field(default_factory=list)
    """The reader's words, so that no exception's message can carry them into the log."""


_current: ContextVar[RequestContext | None] = ContextVar("request", default=None)


def current_request() -> RequestContext:
    """Return the context of the request being served, or a blank one outside of requests."""
    return _current.get() or RequestContext(request_id="")


def keep_out_of_log(*texts: str | None) -> None:
    """Keep these texts, which are readers' or answers to them, out of what the log tells of this request's exceptions."""
    current_request().confidential += [text for text in texts if text]


def configure(settings: Settings) -> None:
    """Send the records of the service and of its server to stdout: as JSON, or through rich on a developer's terminal.

    Until this is called, `logging.json` makes the server write JSON; the parent of several workers never calls it.
    """
    _configure(development=settings.development, level=settings.log_level, secrets=settings.secrets)


def _configure(*, development: bool, level: str = "INFO", secrets: Sequence[str] = ()) -> None:
    handler: logging.Handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(secrets))
    if development and sys.stdout.isatty():
        from rich.logging import RichHandler  # noqa: PLC0415  # A development dependency.

        handler = RichHandler(show_path=False)
        handler.setFormatter(TextFormatter(secrets))
    logging.root.handlers = [handler]
    # Below WARNING some libraries log the parameters of statements.
    logging.root.setLevel(max(logging.WARNING, logging.getLevelName(level)))
    for name in ("app", "uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(level)
    # The "request" record says more, and leaves the query string out.
    logging.getLogger("uvicorn.access").setLevel(logging.CRITICAL)


class Untrusted(str):
    """A field's value that comes from outside: it is withheld like an exception's message if it quotes the reader."""

    __slots__ = ()


class EventFormatter(logging.Formatter):
    """Collects what a record says: its fields, the request's and session's ids, and an exception fit for the log."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        super().__init__()
        # Very short secrets would garble every line.
        secrets = [secret for secret in secrets if len(secret) >= _SHORTEST_CONFIDENTIAL]
        self._spellings = {spelling for secret in secrets for spelling in (secret, json.dumps(secret)[1:-1])}

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the record's fields, with an exception's type, message and traceback."""
        request = current_request()
        fields: dict[str, Any] = {}
        if request.request_id:
            fields["request_id"] = request.request_id
        if request.session_id:
            fields["session_id"] = str(request.session_id)
        fields |= getattr(record, "fields", {})
        confidential = (
            {_without_escapes(text) for text in request.confidential} if _may_quote(record, fields) else set()
        )
        for name, value in fields.items():
            if isinstance(value, Untrusted):
                fields[name] = self._withheld_if_it_quotes(value, confidential)
        if record.exc_info and record.exc_info[1]:
            error = record.exc_info[1]
            fields["error"] = _name(error)
            fields["error_message"] = self._message(error, confidential)
            fields["traceback"] = "".join(self._traceback(error, confidential))
        return fields

    def redact(self, text: str) -> str:
        """Return the text without the configured secrets."""
        for spelling in self._spellings:
            text = text.replace(spelling, "***")
        return text

    def _traceback(self, error: BaseException, confidential: Collection[str]) -> Iterator[str]:
        """Yield the traceback as Python prints it, causes first, but for messages that quote the reader."""
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause:
            yield from self._traceback(cause, confidential)
            yield "\nwhich led to:\n\n"
        yield from traceback.format_tb(error.__traceback__)
        yield f"{_name(error)}: {self._message(error, confidential)}\n"
        if isinstance(error, BaseExceptionGroup):
            for member in error.exceptions:
                yield from self._traceback(member, confidential)

    def _message(self, error: BaseException, confidential: Collection[str]) -> str:
        return self._withheld_if_it_quotes(str(error), confidential)

    def _withheld_if_it_quotes(self, message: str, confidential: Collection[str]) -> str:
        """Return the message, or a note in its place if it shares a telling run of characters with the reader."""
        message = self.redact(message)[:_LONGEST_EXCEPTION_MESSAGE]
        if _quotes(_without_escapes(message), confidential):
            return "(withheld: the message quotes the reader)"
        return message


class JsonFormatter(EventFormatter):
    """One line of JSON per record: time (UTC), level, logger, event and the fields."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        } | self.fields(record)
        return self.redact(json.dumps(entry, default=str))


class TextFormatter(EventFormatter):
    """The same for people: the event, `name=value` for each field, and a traceback below."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        trace = fields.pop("traceback", None)
        line = " ".join([record.getMessage(), *(f"{name}={value}" for name, value in fields.items())])
        return self.redact(f"{line}\n{trace}" if trace else line)


def _may_quote(record: logging.LogRecord, fields: dict[str, Any]) -> bool:
    return bool(record.exc_info) or any(isinstance(value, Untrusted) for value in fields.values())


def _name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")


def _quotes(message: str, confidential: Collection[str]) -> bool:
    """Whether the message shares a telling run of characters with one of the texts; all are without escapes."""
    for text in confidential:
        length = min(_TELLING_RUN, len(text))
        runs = (message[start : start + length] for start in range(len(message) - length + 1))
        if length >= _SHORTEST_CONFIDENTIAL and any(run in text for run in runs):
            return True
    return False


def _without_escapes(text: str) -> str:
    """Return the text in a spelling that is the same however often it was escaped on its way."""
    return json.dumps(text)[1:-1].replace("\\", "")


class StartLogMiddleware:
    """Logs why the service could not start or stop, in place of the bare traceback that Starlette has the server log."""

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
            _configure(development=Environment().development)
            logger.critical("settings.invalid", extra={"fields": {"reason": str(error)}})
            raise
        except BaseException as error:
            logger.critical("service.failed", exc_info=error)
            raise


class RequestLogMiddleware:
    """Gives each request its id, answers with it, and writes the `request` record when the response has ended."""

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
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "duration_ms": milliseconds(time.perf_counter() - started),
                "body_bytes": received,
                "headers": {name: value for name, value in headers.items() if not _PRIVATE_HEADER.search(name)},
                "database_statements": request.database_statements,
                "database_ms": milliseconds(request.database_seconds),
            }
            logger.info("request", extra={"fields": fields})
            _current.reset(token)


def milliseconds(seconds: float) -> float:
    """Return a duration as the records give it, in milliseconds with two decimals."""
    return round(seconds * 1000, 2)
