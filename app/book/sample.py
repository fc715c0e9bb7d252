"""The sample book, which `fastapi dev` reads in by itself, so that the first question has a book to be answered from."""

import asyncio
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Self, override
from urllib.parse import urlsplit

from app.book.search import BookSearch
from app.retrieval import Findings, Query

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parents[2] / "sample-book" / "docs"
URL = "https://book.example.org/docs/"
TITLE = "A Small Book of Robots"
PAGE = f"{URL}what-is-a-robot"
"""The page that the service shows at `/`."""

_PATIENCE_SECONDS = 4.0
"""How long a question waits for the book: less than a turn waits for its passages."""


class SampleSearch(BookSearch):
    """The search that reads the sample book into a database without a book, beside the service; a question waits for that."""

    _reading_in: asyncio.Task[None] | None = None

    @override
    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._reading_in = asyncio.create_task(self._read_in())
        return self

    @override
    async def __aexit__(self, *exception: object) -> None:
        if self._reading_in:
            self._reading_in.cancel()
            await asyncio.gather(self._reading_in, return_exceptions=True)
        await super().__aexit__(*exception)

    @override
    async def __call__(self, query: Query, *, by_meaning: bool = True) -> Findings:
        if self._reading_in:
            await asyncio.wait([self._reading_in], timeout=_PATIENCE_SECONDS)
        if query.page_url and not urlsplit(query.page_url).path.strip("/"):
            query = replace(query, page_url=PAGE)
        return await super().__call__(query, by_meaning=by_meaning)

    async def _read_in(self) -> None:
        if not FOLDER.is_dir() or await self.pages():
            return
        try:
            await _read_sample_in(self)
        except Exception as error:  # The service works without it.
            logger.warning("book.sample_not_read", exc_info=error)
        self._read_at = -math.inf


async def _read_sample_in(search: BookSearch) -> None:
    from app.book.ingest import ingest  # noqa: PLC0415  # These need the extra, and take long to import.
    from app.book.tree import read_book  # noqa: PLC0415

    book = await asyncio.to_thread(read_book, FOLDER, URL)
    # Nobody has asked for its embeddings, which cost money.
    report = await ingest(book, search.database.dsn, None, locale="en", title=TITLE)
    fields = {"address": URL, "pages": book.pages, "chunks": report.new}
    logger.info("book.sample_read", extra={"fields": fields})
