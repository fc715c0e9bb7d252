"""What the lifespan sets up, and how the path operations ask for it."""

from typing import Annotated, TypedDict

from fastapi import Depends, Request

from app.config import Settings
from app.database import Database
from app.llm import LanguageModel
from app.ratelimit import RateLimiter
from app.retrieval import Retriever
from app.turns import Turns


class State(TypedDict):
    """The lifespan's state; each request sees it."""

    settings: Settings
    database: Database
    model: LanguageModel
    retrieve: Retriever
    turns: Turns
    limiter: RateLimiter


class StateRequest(Request[State]):
    """A request, told the type of its state; FastAPI does not take `Request[State]` itself as an annotation."""


# They are coroutines, though nothing is awaited: FastAPI would send plain functions to a thread.


async def get_database(request: StateRequest) -> Database:
    """Return the database."""
    return request.state["database"]


async def get_retriever(request: StateRequest) -> Retriever:
    """Return the step that looks up passages."""
    return request.state["retrieve"]


async def get_turns(request: StateRequest) -> Turns:
    """Return the turns under way."""
    return request.state["turns"]


async def within_rate(request: StateRequest) -> None:
    """Refuse a reader who asks too often."""
    await request.state["limiter"].check(request)


Db = Annotated[Database, Depends(get_database)]
Retrieve = Annotated[Retriever, Depends(get_retriever)]
Running = Annotated[Turns, Depends(get_turns)]
