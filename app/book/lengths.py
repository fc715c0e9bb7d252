"""How long the texts are that the model is sent."""

from collections.abc import Sequence

_ELLIPSIS = " …"


def shortened(text: str, size: int) -> str:
    """Return the text if it has no more bytes than this, or else its beginning, up to the end of a paragraph, line or word."""
    data = text.encode()
    if len(data) <= size:
        return text
    beginning = data[: size - len(_ELLIPSIS.encode())].decode(errors="ignore")
    ends = (beginning.rfind(separator) for separator in ("\n\n", "\n", " "))
    end = next((end for end in ends if end > len(beginning) / 2), len(beginning))
    return beginning[:end].rstrip() + _ELLIPSIS


def in_fair_shares(texts: Sequence[str], room: int) -> list[str]:
    """Return the texts, of together at most so many bytes: those that are shorter than their share are whole.

    The beginnings of the others have the same length.
    """
    shares: dict[int, int] = {}
    sizes = [len(text.encode()) for text in texts]
    for number, index in enumerate(sorted(range(len(texts)), key=sizes.__getitem__)):
        shares[index] = min(sizes[index], room // (len(texts) - number))
        room -= shares[index]
    return [shortened(text, shares[index]) for index, text in enumerate(texts)]
