"""The SQL of the search: by words (BM25), by meaning (cosine), and both together (reciprocal rank fusion)."""

from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import ARRAY, REAL, Double, Text, TextClause, Uuid, bindparam, text

from app.book.words import CONFIGURATION_SQL
from app.models import EMBEDDING_DIMENSIONS

RANKED = 20
"""How many chunks each way of searching contributes."""
PREVIOUS_WEIGHT = 0.3
"""How much the question before counts: enough for "And its price?", and too little to hold on to a subject that has changed."""
_FUSION = 60
"""The constant of reciprocal rank fusion."""
_NEXT_TO_NOTHING = 1e-4
"""The most that SQLite's scores of words sum up to that most chunks have."""
_PER_PAGE = 3
"""How many chunks of one page are found at most."""

_SMALL_BOOK = 100
"""In a book of fewer chunks, words that most of them have are looked up too."""
_MOST_MATCHES = 10_000
"""The rarest words of a question are looked up until they are in so many chunks together, and one word always."""
_MOST_MATCHES_IN_MANY_BOOKS = 1_000
"""The same where several books are searched at once: fewer, since their chunks lie further apart."""
_BEST = 200
"""For how many of the chunks that they find the other words count too."""
_COMPARED = 60
"""How many chunks that the index of embeddings finds are compared exactly."""
_EXPLORED = 100
"""How many chunks the index looks at at once: the more, the fewer it misses."""

PAGES = text("SELECT address FROM book_pages")

EMBEDDINGS_AFTER = text("""
    SELECT id, book_id, embedding FROM documents
    WHERE book_id IS NOT NULL AND embedding IS NOT NULL AND id > :id
      AND json_extract(metadata, '$.model') = :model AND json_extract(metadata, '$.dimensions') = :dimensions
    ORDER BY id LIMIT 500
""")
EMBEDDINGS_OF = text("""
    SELECT id, embedding FROM documents WHERE embedding IS NOT NULL AND id IN (SELECT value FROM json_each(:ids))
""")

# BM25, with the usual constants 1.2 and 0.75. PostgreSQL has no function for a word's frequency in a document, but it follows
# from the rank that a single word gives: the sum of 1/n² up to the frequency, divided by the sum of all. This is the inverse,
# exact to a tenth for one occurrence, and better for more.
_FREQUENCY = "1 / (pi() ^ 2 / 6 * (1 - ts_rank('{{1, 1, 1, 1}}', words, query))) - 0.5"
_BM25 = """
    weight * ln(1 + greatest(0, :chunks - chunks + 0.5) / (chunks + 0.5))
    * frequency * 2.2 / (frequency + 0.3 + 0.9 * length / :average_length)
"""

# In how many chunks each word is, is kept, so that those of most chunks are left out before any chunk is read. The rarest words
# find the chunks, and the others count where these have them. OFFSET keeps the planner from a join that reads every document.
_WORDS_POSTGRESQL = f"""
    WITH configurations AS (
        SELECT DISTINCT {CONFIGURATION_SQL} AS name FROM unnest(:configurations) AS given (configuration)
    ),
    asked AS (
        SELECT lexeme, sum(weight) AS weight, bool_or(is_own) AS is_own, CAST('''' || lexeme || '''' AS tsquery) AS query
        FROM (
            SELECT DISTINCT lexeme, CAST(1 AS float8) AS weight, true AS is_own
            FROM configurations, unnest(to_tsvector(name, :question))
            UNION ALL
            SELECT DISTINCT lexeme, {PREVIOUS_WEIGHT}, false FROM configurations, unnest(to_tsvector(name, :previous))
        )
        GROUP BY lexeme
    ),
    known AS MATERIALIZED (
        SELECT lexeme, weight, is_own, query, CAST(coalesce({{kept}}, 0) AS float8) AS kept FROM asked
    ),
    in_order AS (
        SELECT *, kept * 2 <= :chunks AS is_telling,
               sum(kept) OVER (ORDER BY kept * 2 <= :chunks DESC, is_own DESC, kept, lexeme) - kept AS before
        FROM known
    ),
    needed AS MATERIALIZED (
        SELECT * FROM in_order
        WHERE is_telling OR :chunks < {_SMALL_BOOK}
              OR NOT EXISTS (SELECT FROM in_order WHERE is_own AND is_telling AND kept > 0)
    ),
    occurrences AS (
        SELECT id, chunks * 2 <= :chunks AS is_telling, {_BM25} AS score
        FROM needed CROSS JOIN LATERAL (
            SELECT *, {{chunks}} AS chunks
            FROM (
                SELECT id, CAST(length AS float8) AS length, {_FREQUENCY} AS frequency FROM document_words
                WHERE words @@ query AND {{of_book}} OFFSET 0
            )
        )
        WHERE before < {{most_matches}}
    ),
    best AS (
        SELECT id, bool_or(is_telling) AS is_telling, sum(score) AS score
        FROM occurrences GROUP BY id ORDER BY score DESC LIMIT {_BEST}
    ),
    by_words AS (
        SELECT id, is_telling, rank() OVER (ORDER BY score DESC) AS rank
        FROM (
            SELECT id, is_telling, score + coalesce((
                SELECT sum({_BM25})
                FROM (SELECT *, greatest(kept, 1) AS chunks FROM needed WHERE before >= {{most_matches}}) AS frequent
                     CROSS JOIN LATERAL (
                         SELECT CAST(length AS float8) AS length, {_FREQUENCY} AS frequency FROM document_words
                         WHERE document_words.id = best.id AND words @@ query
                     )
            ), 0) AS score
            FROM best
        )
        ORDER BY score DESC LIMIT {RANKED}
    ),
"""  # noqa: S608  # Constants.

# FTS5 has BM25, which can only be called where its table is searched. A word that is in half of the chunks or more counts next
# to nothing there.
_WORDS_SQLITE = f"""
    WITH found AS MATERIALIZED (
        SELECT id, -bm25(document_words, 0, 2, 1) AS score FROM document_words WHERE document_words MATCH :question
    ),
    found_before AS MATERIALIZED (
        SELECT id, -bm25(document_words, 0, 2, 1) AS score FROM document_words WHERE document_words MATCH :previous
    ),
    by_words AS (
        SELECT id, score > {_NEXT_TO_NOTHING} AS is_telling, rank() OVER (ORDER BY score DESC) AS rank
        FROM (
            SELECT id, sum(score) AS score
            FROM (SELECT * FROM found UNION ALL SELECT id, {PREVIOUS_WEIGHT} * score FROM found_before)
            GROUP BY id
        )
        WHERE id IN (SELECT id FROM documents WHERE {{of_book}})
        ORDER BY score DESC LIMIT {RANKED}
    ),
"""  # noqa: S608  # Constants.

_MEANING_SQLITE = """
    by_meaning AS (SELECT value AS id, key + 1 AS rank, :cosine AS cosine FROM json_each(:nearest)),
"""
_NO_MEANING = """
    by_meaning AS (SELECT id, rank, CAST(NULL AS float8) AS cosine FROM by_words WHERE false),
"""

_FUSED = f"""
    fused AS (
        SELECT id, sum(CAST(1 AS float8) / ({_FUSION} + rank)) AS score, max(words_rank) AS words_rank, max(meaning_rank) AS meaning_rank
        FROM (
            SELECT id, rank, rank AS words_rank, NULL AS meaning_rank FROM by_words
            UNION ALL
            SELECT id, rank, NULL, rank FROM by_meaning
        ) AS ranked
        GROUP BY id
    ),
    ordered AS (
        SELECT fused.*, book_id, page, coalesce(page = :page, false) AS is_here
        FROM fused JOIN documents USING (id)
    ),
    counted AS (
        SELECT *, row_number() OVER (
            PARTITION BY book_id, page ORDER BY score DESC, meaning_rank, words_rank, id
        ) AS number_on_page
        FROM ordered
    ),
    chosen AS (
        SELECT content AS text, source, title, {{page}} AS page, score, words_rank, meaning_rank,
               row_number() OVER (ORDER BY score DESC, is_here DESC, meaning_rank, words_rank, id) AS place
        FROM counted JOIN documents USING (id)
        WHERE number_on_page <= {_PER_PAGE}
        ORDER BY place
        LIMIT :limit
    )
    SELECT 'hit' AS kind, place, text, source, title, page, score, words_rank, meaning_rank,
           (SELECT max(cosine) FROM by_meaning) AS cosine,
           EXISTS (SELECT 1 FROM by_words WHERE is_telling) AS is_telling
    FROM chosen
"""  # noqa: S608  # Constants.

_NOTHING_MORE = "NULL, NULL, NULL, NULL, NULL"
_HERE = f"""
    UNION ALL
    SELECT 'here', number, NULL, address, title, part, {_NOTHING_MORE} FROM book_pages WHERE book_id = :book AND page = :page
"""  # noqa: S608  # A constant.
_CONTENTS = f"""
    UNION ALL
    SELECT 'contents', number, CAST(headings AS text), address, title, part, {_NOTHING_MORE}
    FROM book_pages WHERE book_id = :contents
"""  # noqa: S608  # A constant.

# Of a page that is too long, the first chunk of each section.
_PAGE = """
    WITH chunks AS (
        SELECT content, source, title, position, {page} AS page, sum({bytes}) OVER () AS bytes,
               row_number() OVER (PARTITION BY source ORDER BY position, id) AS number_in_section
        FROM documents WHERE book_id = :book AND page = :page
    )
    SELECT kind, place, text, source, title, page, bytes
    FROM (
        SELECT 'chunk' AS kind, position AS place, content AS text, source, title, page, bytes
        FROM chunks WHERE bytes <= :room OR number_in_section = 1
        ORDER BY position LIMIT :limit
    ) AS of_page
    UNION ALL
    SELECT 'here', number, NULL, address, title, part, NULL FROM book_pages WHERE book_id = :book AND page = :page
"""


@dataclass(frozen=True)
class Where:
    """Where a statement searches, and what else it reads."""

    in_one_book: bool
    """In the book of `:book` only, and not in all."""
    has_many_books: bool = False
    """There are several books in which it searches."""
    has_here: bool = False
    """Also the page of `:page`, in that book."""
    has_contents: bool = False
    """Also the table of contents of the book of `:contents`."""

    is_counted: bool = True
    """It is kept in how many chunks each word is, on PostgreSQL."""

    @property
    def of_book(self) -> str:
        """The condition for rows of documents and their words."""
        return "book_id = :book" if self.in_one_book else "book_id IS NOT NULL"

    @property
    def kept(self) -> str:
        """The number that is kept of the chunks that have the word `asked.lexeme`."""
        if not self.is_counted:
            return "NULL"
        condition = "book_words.lexeme = asked.lexeme" + (" AND book_id = :book" if self.in_one_book else "")
        return f"(SELECT sum(chunks) FROM book_words WHERE {condition})"  # noqa: S608  # Constants.

    @property
    def most_matches(self) -> int:
        """In how many chunks the words that find chunks may be together."""
        return _MOST_MATCHES_IN_MANY_BOOKS if self.has_many_books else _MOST_MATCHES

    @property
    def chunks(self) -> str:
        """The number of chunks that have the word which is being looked up."""
        return "greatest(kept, 1)" if self.is_counted else "CAST(count(*) OVER () AS float8)"

    def of(self, search: str) -> TextClause:
        """Return the statement that reads all of it."""
        statement = text(search + (_HERE if self.has_here else "") + (_CONTENTS if self.has_contents else ""))
        keys = [*(["book"] if self.in_one_book else []), *(["contents"] if self.has_contents else [])]
        return statement.bindparams(*(bindparam(key, type_=Uuid()) for key in keys))


@lru_cache
def search_sqlite(where: Where) -> TextClause:
    """Return the statement that searches by words, and by the ids in `:nearest`, the best of which has the `:cosine`."""
    words, fused = (
        part.format(of_book=where.of_book, page="json_extract(metadata, '$.page')") for part in (_WORDS_SQLITE, _FUSED)
    )
    return where.of(words + _MEANING_SQLITE + fused)


@dataclass(frozen=True)
class Meaning:
    """How PostgreSQL compares embeddings."""

    schema: str
    """Where pgvector is."""
    is_mixed: bool = False
    """Only those of `:model` with `:dimensions` are compared, since others are of other models."""
    has_index: bool = False
    """The index finds the nearest, and they alone are compared exactly; without it, all are."""
    is_iterative: bool = False
    """The index goes on until it has found enough that fulfil the conditions."""

    def of(self, where: Where) -> str:
        """Return the part of the statement that finds the nearest chunks."""
        conditions = f"embedding IS NOT NULL AND {where.of_book}"
        if self.is_mixed:
            conditions += " AND metadata ->> 'model' = :model AND metadata ->> 'dimensions' = :dimensions"
        # The operand is converted once, because it is in a query of its own; by itself it would be for every row.
        distance = (
            f"embedding OPERATOR({self.schema}.<=>) (SELECT CAST(:embedding AS {self.schema}.vector)) AS distance"
        )
        found = f"SELECT id, {distance} FROM documents WHERE {conditions}"  # noqa: S608  # Constants, and a quoted name.
        if self.has_index:
            found = f"SELECT id, {distance} FROM ({self._nearest(conditions)}) AS nearest"  # noqa: S608  # The same.
        return f"""
            by_meaning AS (
                SELECT id, rank() OVER (ORDER BY distance) AS rank, 1 - distance AS cosine
                FROM ({found} ORDER BY distance LIMIT {RANKED})
            ),
        """  # noqa: S608  # The same.

    def _nearest(self, conditions: str) -> str:
        """Return the query for what the index finds.

        OFFSET keeps the conditions out of the inner query, so that the planner has nothing to walk through but the index. Its
        settings hold until the end of the statement, which is a transaction by itself, and are made before the walk begins,
        because what is looked for follows from them.
        """
        settings = {"hnsw.ef_search": str(_EXPLORED)}
        if self.is_iterative:
            settings["hnsw.iterative_scan"] = "relaxed_order"
        are_set = " AND ".join(f"set_config('{name}', '{value}', true) <> ''" for name, value in settings.items())
        half = f"{self.schema}.halfvec({EMBEDDING_DIMENSIONS})"
        return f"""
            SELECT id, embedding FROM (
                SELECT id, book_id, metadata, embedding FROM documents
                ORDER BY CAST(embedding AS {half}) OPERATOR({self.schema}.<=>) (
                    SELECT CASE WHEN {are_set} THEN CAST(CAST(:embedding AS {self.schema}.vector) AS {half}) END
                ) OFFSET 0
            ) AS in_order
            WHERE {conditions} LIMIT {_COMPARED}
        """  # noqa: S608  # The same.


@lru_cache
def search_postgresql(meaning: Meaning | None, where: Where) -> TextClause:
    """Return the statement that searches by words and, if it is said how, by meaning."""
    parameters = [bindparam("configurations", type_=ARRAY(Text)), bindparam("chunks", type_=Double)]
    if meaning:
        parameters.append(bindparam("embedding", type_=ARRAY(REAL)))
    words = _WORDS_POSTGRESQL.format(
        of_book=where.of_book, kept=where.kept, chunks=where.chunks, most_matches=where.most_matches
    )
    fused = _FUSED.format(page="(metadata ->> 'page')")
    by_meaning = meaning.of(where) if meaning else _NO_MEANING
    return where.of(words + by_meaning + fused).bindparams(*parameters)


def _page(page: str, size: str) -> TextClause:
    return text(_PAGE.format(page=page, bytes=size)).bindparams(bindparam("book", type_=Uuid()))


PAGE_SQLITE = _page("json_extract(metadata, '$.page')", "length(CAST(content AS blob))")
PAGE_POSTGRESQL = _page("(metadata ->> 'page')", "octet_length(content)")
