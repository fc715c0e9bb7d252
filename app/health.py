"""Whether the process is alive, and whether the service can answer questions."""

from fastapi import APIRouter

from app.dependencies import Db, StateRequest
from app.errors import DatabaseError, NotReadyError
from app.logs import current_request
from app.models import ErrorResponse, HealthResponse, ReadyResponse

router = APIRouter(prefix="/health", tags=["health"])


@router.head("", include_in_schema=False)  # Uptime monitors send HEAD.
@router.get("")
async def health() -> HealthResponse:
    """Say that the process is alive. The database is not asked, so a suspended one is not woken up."""
    return HealthResponse()


@router.head("/ready", include_in_schema=False)
@router.get(
    "/ready",
    responses={
        503: {
            "model": ErrorResponse,
            "description": "`not_ready`: the database does not answer, only reads, forbids what the service needs, or has not been migrated.",
        }
    },
)
async def ready(request: StateRequest, db: Db) -> ReadyResponse:
    """Say that a turn would succeed: the database answers, has the newest tables, and lets the service use all it needs.

    If several of the last questions were answered without the book, since it could not be searched, the log says how many.
    """
    current_request().fields |= request.state["retrieval_watch"].losses
    counts_tokens = request.state["settings"].daily_token_budget is not None
    try:
        is_migrated = await db.is_migrated(counts_tokens=counts_tokens)
    except DatabaseError as error:
        raise NotReadyError from error
    if not is_migrated:
        raise NotReadyError
    return ReadyResponse()
