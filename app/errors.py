"""The errors that a client can see, and the one place that renders them.

ChatError                        the service itself failed               500 internal_error
├── ModelError                   the model failed                        500 openai_error
│   ├── ModelTimeoutError        … it took longer than the deadline      500 openai_timeout
│   ├── ModelRateLimitError      … its provider is busy                  500 openai_rate_limited
│   ├── ModelRefusedError        … it will not answer this question      500 openai_refused
│   ├── TooLongForModelError     … the question is longer than it reads  400 too_long_for_model
│   └── ModelUnavailableError    … only the operator can repair it       500 openai_error
├── DatabaseError                the database failed or is unreachable   500 database_error
│   ├── DuplicateKeyError        … a row with this key exists
│   ├── MissingReferenceError    … the row to refer to does not exist
│   └── MissingTableError        … it has not been migrated
├── NotStartedError              its server has not started it           500 internal_error
├── NotReadyError                the readiness check failed              503 not_ready
├── SessionNotFoundError         no such conversation                    404 not_found
├── AnswerNotFoundError          no such answer in it                    404 not_found
├── ChatKitNotInstalledError     the chatkit extra is not installed      404 not_found
├── UnsupportedRequestError      a part of ChatKit that is missing here  400 unsupported
├── IdempotencyConflictError     the key belongs to another request      409 idempotency_conflict
├── TurnInProgressError          another request answers the question    409 turn_in_progress
├── RateLimitedError             one reader asks too often               429 rate_limited
│   └── BudgetExhaustedError     … the tokens of the day are spent       429 budget_exhausted
├── PausedError                  the owner has paused the service        503 paused
└── OverloadedError              too many turns, or the service stops    503 overloaded
"""

import logging
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.logs import current_request
from app.models import ErrorDetail, ErrorInfo, ErrorResponse

logger = logging.getLogger(__name__)


class ChatError(Exception):
    """An error with a status, a code for programs and a message for people.

    The message reaches the client and names nothing internal; the exception's cause says what happened inside.
    `retry_after` is the value of the Retry-After header, a whole number of seconds.
    """

    status = 500
    code = "internal_error"
    message = "Something went wrong on our side."
    event: str | None = "internal.error"
    """The log event that records it with a stack trace; None if nothing in the service has failed."""
    retryable = True
    """Whether the same request may succeed later, without a change to it or to the service."""

    def __init__(self, *, retry_after: str | None = None) -> None:
        super().__init__(self.message)
        self.retry_after = retry_after


class ModelError(ChatError):
    """The model gave no answer, or none that can be used."""

    code = "openai_error"
    message = "The assistant could not answer. Please try again."
    event = "openai.error"

    def __init__(self, *, retry_after: str | None = None, usage: Mapping[str, int] | None = None) -> None:
        super().__init__(retry_after=retry_after)
        self.usage: Mapping[str, int] = usage or {}
        """What it cost, as `Completion.usage` has it."""


class ModelTimeoutError(ModelError):
    """The model took longer than the deadline."""

    code = "openai_timeout"
    message = "The assistant took too long to answer. Please try again."


class ModelRateLimitError(ModelError):
    """The model's provider is too busy to answer now."""

    code = "openai_rate_limited"
    message = "The assistant is busy. Please try again in a moment."


class ModelRefusedError(ModelError):
    """The model or a filter of its provider will not answer this question."""

    code = "openai_refused"
    message = "The assistant will not answer this question. Asking it again does not help; please ask in another way."
    retryable = False


class TooLongForModelError(ModelError):
    """The question does not fit into the model's context, even without the conversation before it."""

    status = 400
    code = "too_long_for_model"
    message = "This question is too long for the assistant. Please shorten it, or select less text."
    retryable = False


class ModelUnavailableError(ModelError):
    """The model answers no question until the operator repairs something, such as the key, the quota or the address."""

    message = "The assistant is out of order. Asking again does not help until its operator has repaired it."
    retryable = False


class DatabaseError(ChatError):
    """The database failed, or cannot be reached."""

    code = "database_error"
    message = "The conversation could not be read or saved. Please try again."
    event = "database.error"


class DuplicateKeyError(DatabaseError):
    """The database has a row with this key already."""


class MissingReferenceError(DatabaseError):
    """The database has no row that the new one refers to."""


class MissingTableError(DatabaseError):
    """The database has no such table, or the table no such column."""


class NotStartedError(ChatError):
    """The server serves requests without having run the application's lifespan; the log says so."""

    event = None
    retryable = False


class NotReadyError(ChatError):
    """The service cannot answer questions at the moment."""

    status = 503
    code = "not_ready"
    message = "The database does not answer, or has not been migrated."
    event = "database.error"


class SessionNotFoundError(ChatError):
    """There is no such conversation."""

    status = 404
    code = "not_found"
    message = "There is no such conversation."
    event = None
    retryable = False


class AnswerNotFoundError(ChatError):
    """The conversation has no such answer."""

    status = 404
    code = "not_found"
    message = "There is no such answer."
    event = None
    retryable = False


class ChatKitNotInstalledError(ChatError):
    """The package that the ChatKit protocol needs is not installed."""

    status = 404
    code = "not_found"
    message = "ChatKit is not enabled on this service. The operator can install the extra: uv sync --extra chatkit"
    event = None
    retryable = False


class UnsupportedRequestError(ChatError):
    """The request uses a part of ChatKit that this service does not support."""

    status = 400
    code = "unsupported"
    message = "This assistant reads and writes text only: no attachments, tools, actions or audio."
    event = None
    retryable = False


class IdempotencyConflictError(ChatError):
    """The idempotency key was used for another request."""

    status = 409
    code = "idempotency_conflict"
    message = "This Idempotency-Key belongs to another request."
    event = None
    retryable = False


class TurnInProgressError(ChatError):
    """Another request is answering this question."""

    status = 409
    code = "turn_in_progress"
    message = "This question is being answered. Please ask again in a moment."
    event = None


class RateLimitedError(ChatError):
    """One reader asks more often than the operator allows."""

    status = 429
    code = "rate_limited"
    message = "You are asking too often. Please wait a moment."
    event = None


class BudgetExhaustedError(RateLimitedError):
    """The tokens of the day are spent."""

    code = "budget_exhausted"
    message = "The assistant has answered as much as it may for today. Please ask again tomorrow."


class PausedError(ChatError):
    """The owner has paused the service, and says why in words of their own."""

    status = 503
    code = "paused"
    message = "The assistant is paused for the moment. Please ask again later."
    event = None

    def __init__(self, message: str | None = None) -> None:
        super().__init__(retry_after="60")
        self.message = message or self.message


class OverloadedError(ChatError):
    """As many turns are running as the operator allows, or the service is stopping."""

    status = 503
    code = "overloaded"
    message = "The service is busy. Please try again in a moment."
    event = None


_HTTP_ERRORS = {
    400: ("validation_error", "The request is not valid."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not support this method."),
    413: ("payload_too_large", "The request is too large."),
}

_CONTENT = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}

_DESCRIPTIONS: dict[int | str, str] = {
    400: "`validation_error`: the request is not valid. `too_long_for_model`: the question does not fit into the model's context. "
    "`unsupported`: ChatKit asks for something this service does not "
    "support; where ChatKit expects a stream, this is an `error` event.",
    404: "`not_found`: there is no such conversation or answer, or ChatKit is not enabled.",
    409: "`turn_in_progress`: this question is being answered already. "
    "`idempotency_conflict`: this Idempotency-Key belongs to another request.",
    413: "`payload_too_large`: the request is too large.",
    429: "`rate_limited`: one reader asks too often. `budget_exhausted`: the tokens of the day are spent.",
    "4XX": "Any other error in the request.",
    500: "`openai_timeout`, `openai_rate_limited` or `openai_error`: the model failed. "
    "`openai_refused`: the model will not answer this question, and asking again does not help. "
    "`database_error`: the database failed. `internal_error`: the service failed.",
    503: "`overloaded`: too many turns are running, or the service is stopping. "
    "`paused`: the owner has paused the service, and the message is theirs.",
}

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": _CONTENT} for status, description in _DESCRIPTIONS.items()
}
"""The errors of a turn, for the OpenAPI document. `4XX` keeps FastAPI from adding a 422, which is never sent."""


def log(error: BaseException) -> None:
    """Write to the log what a client must not see.

    A turn and the requests that wait for it raise the same error. It is logged once, with the turn, whose texts are kept out;
    another request that follows the turn gets a line that says where.
    """
    event = error.event if isinstance(error, ChatError) else ChatError.event
    if not event:
        return
    request_id = current_request().request_id
    logged_with = vars(error).get("logged_with")
    if logged_with is None:
        vars(error)["logged_with"] = request_id
        logger.error(event, exc_info=error)
    elif logged_with != request_id:
        logger.error(event, extra={"fields": {"followed_request_id": logged_with}})


def render(error: BaseException) -> tuple[ErrorResponse, int, dict[str, str]]:
    """Return what a client may see of the error: body, status and headers."""
    known = error if isinstance(error, ChatError) else ChatError()
    headers = {"Retry-After": known.retry_after} if known.retry_after else {}
    return _body(known.code, known.message, retryable=known.retryable), known.status, headers


def _body(code: str, message: str, details: Sequence[ErrorDetail] = (), *, retryable: bool = False) -> ErrorResponse:
    # What the server's parser refuses has no id yet.
    request_id = current_request().request_id or str(uuid.uuid4())
    return ErrorResponse(
        error=ErrorInfo(
            code=code, message=message, request_id=request_id, retryable=retryable, details=list(details) or None
        )
    )


def _json(body: ErrorResponse, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(body.model_dump_json(exclude_none=True), status, headers, media_type="application/json")


def invalid_request(field: str, reason: str, headers: dict[str, str] | None = None) -> Response:
    """Return the response to a request that never reaches a route; the field says which part of it is wrong."""
    return _json(_body(*_HTTP_ERRORS[400], [ErrorDetail(field=field, reason=reason)]), 400, headers)


async def _on_error(_request: Request, error: Exception) -> Response:
    log(error)
    return _json(*render(error))


_MOST_DETAILS = 20
_REASONS = {
    "json_invalid": "must be JSON",
    "missing": "is missing",
    "uuid_parsing": "must be a UUID",
    "union_tag_invalid": "has an unknown type",
    "union_tag_not_found": "must have a type",
    "model_attributes_type": "must be a JSON object, sent with Content-Type: application/json",
}


async def _on_invalid_request(_request: Request, error: RequestValidationError) -> Response:
    code, message = _HTTP_ERRORS[400]
    # A long list can have an error in each item.
    details = [
        # If the body is not JSON, the second part of the location is the position of a character, not a field.
        ErrorDetail(
            field=".".join(str(part) for part in e["loc"][1:] if isinstance(part, str)) or str(e["loc"][0]),
            reason=_REASONS.get(e.get("type", ""), e["msg"].removeprefix("Value error, ")),
        )
        for e in error.errors()[:_MOST_DETAILS]
    ]
    return _json(_body(code, message, details), 400)


async def _on_http_error(request: Request, error: HTTPException) -> Response:
    code, message = _HTTP_ERRORS.get(error.status_code, ("http_error", error.detail))
    # FastAPI answers 400 if its JSON parser gives up on a body.
    details = (
        [ErrorDetail(field="body", reason=_REASONS["json_invalid"])]
        if error.status_code == HTTPStatus.BAD_REQUEST
        else []
    )
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # Starlette knows the methods of the first route that has this path, of several.
        methods = request.app.openapi()["paths"].get(request.scope["path"])
        headers |= {"Allow": ", ".join(map(str.upper, methods))} if methods else {}
    return _json(_body(code, message, details), error.status_code, headers)


HANDLERS: dict[int | type[Exception], Any] = {
    ChatError: _on_error,
    RequestValidationError: _on_invalid_request,
    HTTPException: _on_http_error,
}
"""The application's exception handlers."""


async def respond_to_error(request: Request[Any], error: Exception) -> Response:
    """Return the response of the handler for this error."""
    handlers = (handler for kind in type(error).__mro__ if (handler := HANDLERS.get(kind)))
    response: Response = await next(handlers, _on_error)(request, error)
    return response


class ErrorMiddleware:
    """Answers errors that have no handler, and refuses bodies that are larger than any valid request.

    It belongs inside the CORS middleware. Starlette would answer an unhandled exception outside of it, and a browser would
    report that as a CORS error. Starlette's own limit for bodies answers in plain text.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # To a route's pattern, a last line feed is its end.
        if scope["path"].endswith("\n"):
            await (await _on_http_error(Request(scope), HTTPException(404)))(scope, receive, send)
            return
        limit: int = scope["state"]["settings"].max_body_bytes
        announced = Headers(scope=scope).get("content-length", "")
        # A body that announces itself as too large is refused unread.
        received = int(announced) if announced.isdecimal() and int(announced) > limit else 0
        response_started = False

        async def receive_within_limit() -> Message:
            nonlocal received
            if received <= limit:
                message = await receive()
                received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413)
            return message

        async def send_and_remember(message: Message) -> None:
            nonlocal response_started
            response_started = True
            await send(message)

        try:
            await self.app(scope, receive_within_limit, send_and_remember)
        except Exception as error:
            if response_started:
                raise
            response = await _on_error(Request(scope), error)
            await response(scope, receive, send)
