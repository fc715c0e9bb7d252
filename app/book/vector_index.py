"""The index of vectors for SQLite, which cannot compare them: by their signs first, and the best ones exactly."""

import heapq
import json
import math
import struct
import uuid
from collections import defaultdict

from app.book.embeddings import Vector, padded
from app.book.statements import EMBEDDINGS_AFTER, EMBEDDINGS_OF, RANKED
from app.database import Database

_COMPARED = 100
"""How many vectors are compared exactly."""
_DIGITS = b"0" * 128 + b"1" * 128
"""The highest bit of each byte, as a digit."""


class VectorIndex:
    """Every embedding in memory, as one bit for each of its dimensions: a few hundred bytes for each chunk."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ids: list[str] = []
        self._signs: list[int] = []
        self._of_book: dict[str, list[int]] = {}
        """Where the chunks of each book are in these lists."""

    async def load(self, model: str, dimensions: int) -> None:
        """Read those of the model's embeddings in place of what was read before; raises DatabaseError."""
        ids: list[str] = []
        signs: list[int] = []
        of_book: dict[str, list[int]] = defaultdict(list)
        parameters = {"model": model, "dimensions": dimensions, "id": ""}
        while rows := await self._database.execute((EMBEDDINGS_AFTER, parameters)):
            for index, row in enumerate(rows, len(ids)):
                of_book[row.book_id].append(index)
            ids += [row.id for row in rows]
            signs += [_signs(row.embedding) for row in rows]
            parameters["id"] = ids[-1]
        self._ids, self._signs, self._of_book = ids, signs, of_book

    async def nearest(self, vector: Vector, book: uuid.UUID | None = None) -> tuple[list[str], float | None]:
        """Return the ids of the chunks that are closest to the vector, best first, and the best one's cosine.

        Those of one book or of all; raises DatabaseError.
        """
        all_ids, all_signs = self._ids, self._signs
        candidates = range(len(all_ids)) if book is None else self._of_book.get(book.hex, [])
        full = padded(vector)
        wanted = _signs(struct.pack(f"<{len(full)}f", *full))
        closest = heapq.nsmallest(_COMPARED, candidates, key=lambda index: (wanted ^ all_signs[index]).bit_count())
        ids = json.dumps([all_ids[index] for index in closest])
        rows = await self._database.execute((EMBEDDINGS_OF, {"ids": ids}))
        unpack = struct.Struct(f"<{len(vector)}f").unpack_from  # What follows is zeros.
        vectors = ((unpack(row.embedding), row.id) for row in rows)
        cosines = ((math.sumprod(vector, other) / (math.hypot(*other) or 1), key) for other, key in vectors)
        nearest = heapq.nlargest(RANKED, cosines)
        return [key for _, key in nearest], nearest[0][0] / math.hypot(*vector) if nearest else None


def _signs(packed: bytes) -> int:
    """Return the signs of packed floats as the bits of a number: each is the highest bit of a float's last byte."""
    return int(packed[3::4].translate(_DIGITS), 2)
