"""What the lifespan sets up, and how path operations get it."""

import hashlib
from typing import TYPE_CHECKING, Annotated, TypedDict

from fastapi import Depends, Header, Request

from app.broadcast import Broadcasts
from app.budget import Budget
from app.config import Settings
from app.database import Database
from app.llm import LanguageModel
from app.pause import Pauses
from app.ratelimit import RateLimiter
from app.retrieval import RetrievalWatch, Retriever
from app.turns import Turns

if TYPE_CHECKING:
    from app.mcp_tools import Tools


class State(TypedDict):
    """The lifespan's state; each request sees it."""

    settings: Settings
    database: Database
    model: LanguageModel
    retriever: Retriever
    retrieval_watch: RetrievalWatch
    turns: Turns
    broadcasts: Broadcasts
    limiter: RateLimiter
    budget: Budget
    pauses: Pauses
    mcp_tools: "Tools | None"
    """None unless `MCP_ENABLED` is true."""


class StateRequest(Request[State]):
    """A request whose state has a type; FastAPI does not accept `Request[State]` itself as an annotation."""


# These await nothing, but FastAPI would run plain functions in a thread.


async def get_database(request: StateRequest) -> Database:
    """Return the database."""
    return request.state["database"]


async def get_retriever(request: StateRequest) -> Retriever:
    """Return the retriever."""
    return request.state["retriever"]


async def get_turns(request: StateRequest) -> Turns:
    """Return the running turns."""
    return request.state["turns"]


_TOKEN = Header(
    alias="X-Reader-Token",
    pattern=r"^[A-Za-z0-9._~-]{16,128}$",
    description="A secret that the page makes up for its reader and keeps. A session that begins with it belongs to that "
    "reader: for requests without it, the session does not exist. A session that begins without it is open to whoever "
    "knows its id.",
)
ReaderToken = Annotated[str | None, _TOKEN]
RequiredReaderToken = Annotated[str, _TOKEN]


def owner_of(token: str | None) -> str | None:
    """Return what a session keeps of its reader's token: its SHA-256 digest."""
    return hashlib.sha256(token.encode()).hexdigest() if token else None


Db = Annotated[Database, Depends(get_database)]
RetrieverDep = Annotated[Retriever, Depends(get_retriever)]
TurnsDep = Annotated[Turns, Depends(get_turns)]
