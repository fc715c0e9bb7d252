"""The endpoint of OpenAI's ChatKit widget, for a service that has the `chatkit` extra installed."""

import asyncio
import json
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from fastapi import APIRouter, HTTPException, Response
from fastapi.exceptions import RequestValidationError

from app.dependencies import ReaderToken, RetrieverDep, StateRequest, owner_of
from app.errors import ERROR_RESPONSES, ChatError, ChatKitNotInstalledError, respond_to_error

router = APIRouter(tags=["chatkit"])

_ANY_OBJECT = {"type": "object", "properties": {"type": {"type": "string"}, "params": {"type": "object"}}}


@router.post(
    "/chatkit",
    response_class=Response,
    responses={
        200: {"content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}}},
        **ERROR_RESPONSES,
    },
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _ANY_OBJECT}}}},
)
async def chatkit(request: StateRequest, retriever: RetrieverDep, token: ReaderToken = None) -> Response:
    """Speak ChatKit's protocol: the widget's `api.url` is this address.

    Threads are the sessions of `POST /chat`, and a message in one is answered in the same way.
    """
    if find_spec("chatkit") is None:
        raise ChatKitNotInstalledError
    if not _protocol.cache_info().currsize:
        # Importing it takes long, and no other answer should wait for that.
        await asyncio.to_thread(_protocol)
    try:
        response: Response = await _protocol().respond(request, retriever, owner_of(token))
    except (ChatError, RequestValidationError, HTTPException) as error:
        return await _with_message(request, error)
    return response


async def _with_message(request: StateRequest, error: Exception) -> Response:
    """Return the error's usual response, with its message also at the top of the body, where the widget reads it."""
    response = await respond_to_error(request, error)
    body = json.loads(bytes(response.body))
    return Response(
        json.dumps({**body, "message": body["error"]["message"]}),
        response.status_code,
        {name: value for name, value in response.headers.items() if name == "retry-after"},
        media_type="application/json",
    )


@cache
def _protocol() -> ModuleType:
    return import_module("app.chatkit_protocol")
