"""The endpoint of OpenAI's ChatKit widget, for a service that has the `chatkit` extra installed."""

import asyncio
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Annotated

from fastapi import APIRouter, Header, Response

from app.dependencies import Retrieve, StateRequest
from app.errors import ERROR_RESPONSES, ChatKitNotInstalledError

router = APIRouter(tags=["chatkit"])

ReaderToken = Annotated[
    str | None,
    Header(
        alias="X-Reader-Token",
        pattern=r"^[A-Za-z0-9._~-]{16,128}$",
        description="A secret that the page made up for its reader and keeps. Here, threads begun with it are listed to "
        "nobody else and opened for nobody else; without it nothing is listed, and whoever knows a thread's id can open "
        "it.",
    ),
]

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
async def chatkit(request: StateRequest, retrieve: Retrieve, token: ReaderToken = None) -> Response:
    """Speak ChatKit's protocol: the widget's `api.url` is this address.

    Threads are the sessions of `POST /chat`, and a message in one is answered in the same way.
    """
    if find_spec("chatkit") is None:
        raise ChatKitNotInstalledError
    if not _protocol.cache_info().currsize:
        # Its import takes a while, which nobody else's answer is to wait for, the first one least of all.
        await asyncio.to_thread(_protocol)
    response: Response = await _protocol().respond(request, retrieve, token)
    return response


@cache
def _protocol() -> ModuleType:
    return import_module("app.chatkit_protocol")
