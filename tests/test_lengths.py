"""How much of each text the model is sent where there is no room for all."""

import pytest

from app.book.lengths import in_fair_shares


@pytest.mark.parametrize(
    ("texts", "room", "expected"),
    [
        (["one", "two"], 6, ["one", "two"]),
        (["a" * 10, "bb", "c" * 10], 22, ["a" * 10, "bb", "c" * 10]),
        (
            ["a" * 10, "bb", "c" * 10],
            18,
            ["aaaa …", "bb", "cccc …"],
        ),  # Of the short one's share, the others have the rest.
        (["لب" * 10, "b"], 17, ["لبلبلب …", "b"]),  # It is bytes that are shared.
        ([], 10, []),
    ],
)
def test_texts_that_are_shorter_than_their_share_are_whole(texts: list[str], room: int, expected: list[str]) -> None:
    shared = in_fair_shares(texts, room)

    assert shared == expected
    assert len("".join(shared).encode()) <= room
