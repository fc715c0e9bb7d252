"""The words of a text: the form in which chunks are indexed, and in which questions are looked up."""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import batched

from sqlalchemy import ARRAY, Text, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.models import Document

_BATCH = 500

_CONFIGURATIONS = {
    "ar": "arabic",
    "ca": "catalan",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fi": "finnish",
    "fr": "french",
    "ga": "irish",
    "hi": "hindi",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "it": "italian",
    "lt": "lithuanian",
    "nb": "norwegian",
    "ne": "nepali",
    "nl": "dutch",
    "nn": "norwegian",
    "no": "norwegian",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sr": "serbian",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
    "yi": "yiddish",
}
"""PostgreSQL's text search configurations by language."""

_COMMON = frozenset(
    [
        "a",
        "about",
        "above",
        "after",
        "again",
        "against",
        "all",
        "am",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "because",
        "been",
        "before",
        "being",
        "below",
        "between",
        "both",
        "but",
        "by",
        "can",
        "did",
        "do",
        "does",
        "doing",
        "don",
        "down",
        "during",
        "each",
        "few",
        "for",
        "from",
        "further",
        "had",
        "has",
        "have",
        "having",
        "he",
        "her",
        "here",
        "hers",
        "herself",
        "him",
        "himself",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "itself",
        "just",
        "me",
        "more",
        "most",
        "my",
        "myself",
        "no",
        "nor",
        "not",
        "now",
        "of",
        "off",
        "on",
        "once",
        "only",
        "or",
        "other",
        "our",
        "ours",
        "ourselves",
        "out",
        "over",
        "own",
        "s",
        "same",
        "she",
        "should",
        "so",
        "some",
        "such",
        "t",
        "than",
        "that",
        "the",
        "their",
        "theirs",
        "them",
        "themselves",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "to",
        "too",
        "under",
        "until",
        "up",
        "very",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "whom",
        "why",
        "will",
        "with",
        "you",
        "your",
        "yours",
        "yourself",
        "yourselves",
    ]
)
"""English words that say nothing of a question's subject; PostgreSQL knows those of every language that it can stem."""

_COMMON_URDU = frozenset(
    re.findall(
        r"\S+",
        "کا کی کے کو میں سے پر نے ہے ہیں ہوں ہو ہوتا ہوتی ہوتے تھا تھی تھے کیا کیسے کیوں کون کونسا کونسے کہاں کب کس کن جو جب تب یہ وہ اس اسے "
        "ان انہیں اور یا بھی تو ہی نہیں نہ مجھے مجھ آپ تم ہم ہمیں میرا میری میرے ایک کر کرتا کرتی کرتے کرنا کریں ساتھ لیے لئے گا گی گے "
        "رہا رہی رہے سکتا سکتی سکتے والا والی والے اپنا اپنی اپنے تک بارے",
    )
)
"""Urdu words that say nothing of a question's subject."""

_CAMEL_CASE = re.compile(r"[^\W\d_]*[a-z0-9][A-Z]\w*")
_HUMP = re.compile("(?<=[a-z0-9])(?=[A-Z])")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
"""Text in scripts that do not put blanks between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


class _Separators(dict[int, int | str | None]):
    """What `str.translate` makes of each character: letters and digits stay, everything else separates words."""

    def __missing__(self, code: int) -> int | str | None:
        character = chr(code)
        # Arabic script is read with and without its vowel signs.
        is_optional = unicodedata.category(character) == "Mn" and "\u0600" <= character <= "\u06ff"
        stays = unicodedata.category(character)[0] in "LMN"
        self[code] = None if is_optional else code if stays else " "
        return self[code]


_SEPARATORS = _Separators()


def searchable(text: str) -> str:
    """Return the text's words with blanks between them, in their order.

    The databases cut text into words themselves, but each in its own way, and none finds the `dispatch` in `store.dispatch` or
    the `slice` in `createSlice`. Scripts without blanks between words become overlapping pairs of characters.
    """
    text = unicodedata.normalize("NFKC", text).translate(_SEPARATORS)
    if _HUMP.search(text):
        text = _CAMEL_CASE.sub(lambda name: f"{name[0]} {_HUMP.sub(' ', name[0])}", text)
    return _UNSPACED.sub(lambda run: f" {' '.join(_pairs(run[0]))} ", text)


def without_common_urdu(words: Iterable[str]) -> list[str]:
    """Return the words of a question in Urdu that say something of its subject; neither database knows the others."""
    return [word for word in words if word not in _COMMON_URDU]


def without_common(words: Iterable[str]) -> list[str]:
    """Return the words of an English question that say something of its subject."""
    return [word for word in words if word not in _COMMON]


def _pairs(run: str) -> Iterable[str]:
    return (run[start : start + 2] for start in range(max(1, len(run) - 1)))


def configuration(locale: str | None) -> str:
    """Return the name of PostgreSQL's text search configuration for a locale such as `pt-BR`; without one, it is English."""
    return _CONFIGURATIONS.get(re.split("[-_]", (locale or "en").lower())[0], "simple")


CONFIGURATION_SQL = """
    coalesce(
        (SELECT oid::regconfig FROM pg_ts_config
         WHERE cfgname = configuration AND cfgnamespace = 'pg_catalog'::regnamespace),
        'pg_catalog.simple'
    )
"""
"""The configuration of the name in the column `configuration`; older servers lack some."""

# Naming the title twice doubles its weight.
_POSTGRESQL = text(f"""
    INSERT INTO document_words (id, book_id, words, length)
    SELECT id, book_id, words, coalesce((SELECT sum(cardinality(positions)) FROM unnest(words)), 0)
    FROM (
        SELECT id, book_id, to_tsvector({CONFIGURATION_SQL}, concat_ws(' ', title, title, content)) AS words
        FROM unnest(:ids, :books, :titles, :contents, :configurations)
             AS chunk (id, book_id, title, content, configuration)
    )
    ON CONFLICT (id) DO UPDATE SET book_id = excluded.book_id, words = excluded.words, length = excluded.length
""").bindparams(  # noqa: S608  # A constant.
    bindparam("ids", type_=ARRAY(Uuid)),
    bindparam("books", type_=ARRAY(Uuid)),
    bindparam("titles", type_=ARRAY(Text)),
    bindparam("contents", type_=ARRAY(Text)),
    bindparam("configurations", type_=ARRAY(Text)),
)
_SQLITE_DELETE = text("DELETE FROM document_words WHERE id IN (SELECT value FROM json_each(:ids))")
_SQLITE_INSERT = text("INSERT INTO document_words (id, title, content) VALUES (:id, :title, :content)")
_SQLITE_PRUNE = text("DELETE FROM document_words WHERE id NOT IN (SELECT id FROM documents)")


async def index_words(connection: AsyncConnection, chunks: Sequence[Document], *, are_new: bool = False) -> None:
    """Let the chunks, which must be stored already, be found by their words; `meta["locale"]` names their language.

    It is to run in the transaction that stores them. Chunks that are indexed already are indexed again, unless all are new.
    """
    if connection.dialect.name == "sqlite" and not are_new:
        # Its full-text tables find no row by such an id: they are read from their start to their end.
        await connection.execute(_SQLITE_DELETE, {"ids": json.dumps([chunk.id.hex for chunk in chunks])})
    for batch in batched(chunks, _BATCH):
        forms = [(chunk.id, searchable(chunk.title), searchable(chunk.content)) for chunk in batch]
        if connection.dialect.name == "postgresql":
            configurations = [configuration(chunk.meta.get("locale")) for chunk in batch]
            ids, titles, contents = map(list, zip(*forms, strict=True))
            books = [chunk.book_id for chunk in batch]
            parameters = {
                "ids": ids,
                "books": books,
                "titles": titles,
                "contents": contents,
                "configurations": configurations,
            }
            await connection.execute(_POSTGRESQL, parameters)
        else:
            rows = [{"id": key.hex, "title": title, "content": content} for key, title, content in forms]
            await connection.execute(_SQLITE_INSERT, rows)


async def prune_words(connection: AsyncConnection) -> None:
    """Forget the words of chunks that have been deleted, in the same transaction.

    PostgreSQL does so by itself; the full-text tables of SQLite cannot refer to others.
    """
    if connection.dialect.name == "sqlite":
        await connection.execute(_SQLITE_PRUNE)
