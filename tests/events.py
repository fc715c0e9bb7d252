"""A turn asked for and read through `POST /chat/stream`."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from tests.conftest import Service

type Event = tuple[str, dict[str, Any]]


@asynccontextmanager
async def streamed(service: Service, message: str = "Why?", **fields: Any) -> AsyncIterator[httpx2.Response]:
    """Ask, and read the answer as it comes."""
    body = {"message": message, **fields}
    async with service.client.stream("POST", "/chat/stream", json=body) as response:
        yield response


async def events_of(response: httpx2.Response) -> AsyncIterator[Event]:
    """Yield the stream's events; comments are no events."""
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def all_events(service: Service, message: str = "Why?", **fields: Any) -> list[Event]:
    """Ask, and return every event of the answer."""
    async with streamed(service, message, **fields) as response:
        assert response.status_code == 200
        return [event async for event in events_of(response)]
