"""Going from an element of a page to those beside it and within it."""

from collections.abc import Iterator

from selectolax.lexbor import LexborNode


def children(node: LexborNode) -> Iterator[LexborNode]:
    """Yield what is in the element, texts and comments included, in the page's order."""
    child = node.first_child
    if child is not None:
        yield child
        yield from following(child)


def elements(node: LexborNode) -> Iterator[LexborNode]:
    """Yield the elements in the element, in the page's order."""
    return (child for child in children(node) if child.is_element_node)


def following(node: LexborNode) -> Iterator[LexborNode]:
    """Yield what stands after the node in the same element, nearest first."""
    after = node.next
    while after is not None:
        yield after
        after = after.next


def preceding(node: LexborNode) -> Iterator[LexborNode]:
    """Yield what stands before the node in the same element, nearest first."""
    before = node.prev
    while before is not None:
        yield before
        before = before.prev
