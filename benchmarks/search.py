"""A book of random words for the search to be measured on: as many chunks as are wanted, with embeddings."""

import random
import statistics
import time
import uuid
from collections.abc import Sequence
from itertools import accumulate

from sqlalchemy import insert

from app.book.embeddings import Embedder
from app.book.evaluation import known
from app.book.search import PASSAGES, BookSearch
from app.book.words import index_words
from app.config import Settings
from app.database import Database
from app.models import Document
from app.retrieval import Query

_WORDS = [f"word{number}" for number in range(8_000)]
_WEIGHTS = list(accumulate(1 / (rank + 30) for rank in range(len(_WORDS))))
"""How frequent words are in a language, without those that the search leaves out: the first is in every second chunk."""
_BATCH = 500


def settings(database_url: str, model_url: str) -> Settings:
    """Return the settings of a service on this database, with the model's embeddings."""
    return Settings.model_validate(
        {"openai_api_key": "sk-benchmark", "database_url": database_url, "openai_base_url": model_url}
    )


async def store_book(database: Database, configured: Settings, chunks: int) -> None:
    """Store a book of so many chunks in an empty database."""
    numbers = random.Random(chunks)
    embedder = Embedder(configured)
    engine = database.engine.execution_options(isolation_level="SERIALIZABLE")
    for start in range(0, chunks, _BATCH):
        texts = [text(numbers, 160) for _ in range(min(_BATCH, chunks - start))]
        vectors = await embedder.embed(texts)
        documents = [
            Document(
                id=uuid.UUID(int=numbers.getrandbits(128), version=4),
                source=f"https://book.example.org/page-{(start + index) // 8}#section-{index % 8}",
                title=text(numbers, 6),
                position=index % 8,
                content=content,
                embedding=vector,
                meta={
                    "page": f"https://book.example.org/page-{(start + index) // 8}",
                    "locale": "en",
                    "digest": "0" * 64,
                    "model": embedder.model,
                    "dimensions": len(vector),
                },
            )
            for index, (content, vector) in enumerate(zip(texts, vectors, strict=True))
        ]
        rows = [{**document.model_dump(exclude={"meta"}), "metadata": document.meta} for document in documents]
        async with engine.begin() as connection:
            await connection.execute(insert(Document), rows)
            await index_words(connection, documents)
    await embedder.close()


async def search_seconds(database: Database, configured: Settings, count: int = 40) -> list[float]:
    """Return how long searches by words and by meaning take whose questions are embedded already."""
    numbers = random.Random(count)
    questions = [text(numbers, 8) for _ in range(count)]
    previous = [text(numbers, 8) for _ in range(count)]
    seconds = []
    async with BookSearch(configured, database) as search:
        await search.questions.embed_all([*questions, *previous])
        for question, before in zip(questions, previous, strict=True):
            query = Query(question, known(before), page_url=None)
            started = time.perf_counter()
            hits = await search.search(query, limit=PASSAGES)
            seconds.append(time.perf_counter() - started)
            assert len(hits) == PASSAGES
            assert any(hit.meaning_rank for hit in hits)
            assert any(hit.words_rank for hit in hits)
    return seconds[count // 4 :]


def median_ms(seconds: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return statistics.median(seconds) * 1000


def text(numbers: random.Random, words: int) -> str:
    """Return so many random words."""
    return " ".join(numbers.choices(_WORDS, cum_weights=_WEIGHTS, k=words))
