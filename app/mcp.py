"""The endpoint for readers' own assistants: the Model Context Protocol over streamable HTTP, without sessions."""

import json
import re
from typing import override

from fastapi import APIRouter, HTTPException, Response
from pydantic_core import from_json
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import Settings
from app.dependencies import StateRequest
from app.errors import ERROR_RESPONSES, invalid_request

router = APIRouter(tags=["mcp"])

_ANY_MESSAGE = {
    "type": "object",
    "properties": {"jsonrpc": {"const": "2.0"}, "id": {}, "method": {"type": "string"}, "params": {"type": "object"}},
}
_PARSE_ERROR = (-32700, "The body must be JSON")
_INVALID_REQUEST = (-32600, "The body must be one JSON-RPC message; batches are not supported")


@router.post(
    "/mcp",
    response_class=Response,
    responses={
        200: {"content": {"application/json": {"schema": {"type": "object"}}}},
        **{status: ERROR_RESPONSES[status] for status in (400, 404, 413, "4XX", 500)},
    },
    openapi_extra={
        "parameters": [
            {
                "name": "book",
                "in": "query",
                "schema": {"type": "string"},
                "description": "The address of the one book to search. Without it, all are searched.",
            }
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ANY_MESSAGE}}},
    },
)
async def mcp(request: StateRequest) -> Response:
    """Speak the Model Context Protocol, if the operator has enabled it: assistants search the books and read their pages."""
    tools = request.state["mcp_tools"]
    if tools is None:
        raise HTTPException(404)
    if not _is_allowed(request.headers.get("origin"), request.state["settings"]):
        raise HTTPException(403, "This origin may not use the service.")
    if not request.headers.get("content-type", "").lower().startswith("application/json"):
        return invalid_request("body", "must be sent with Content-Type: application/json")
    try:
        body = await request.body()
    except ClientDisconnect:
        raise HTTPException(400) from None
    return _refusal(body) or _Exchange(tools.serve, body)


def _is_allowed(origin: str | None, settings: Settings) -> bool:
    """Whether a request from this origin is served: from no page at all, or from one that may use the service."""
    if origin is None or {"*", origin} & {*settings.cors_origins}:
        return True
    return bool(settings.cors_origin_regex and re.fullmatch(settings.cors_origin_regex, origin))


def _refusal(body: bytes) -> Response | None:
    """Return the response to what the SDK would not refuse by itself, or not in all revisions: None if there is nothing wrong."""
    try:
        message = json.loads(body)  # It refuses integers of thousands of digits,
        from_json(body, allow_inf_nan=False)  # and this refuses deep nesting and unpaired surrogates.
    except (ValueError, RecursionError):
        return _json_rpc_error(*_PARSE_ERROR)
    is_message = isinstance(message, dict) and isinstance(message.get("id", ""), str | int | float)
    return None if is_message else _json_rpc_error(*_INVALID_REQUEST)


def _json_rpc_error(code: int, message: str) -> Response:
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
    return Response(json.dumps(error), 400, media_type="application/json")


class _Exchange(Response):
    """What the SDK answers to a request whose body has been read."""

    def __init__(self, serve: ASGIApp, body: bytes) -> None:
        super().__init__()
        self._serve = serve
        self._request_body = body

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the SDK answer."""
        is_read = False

        async def receive_again() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": self._request_body, "more_body": False}

        await self._serve(scope, receive_again, send)
