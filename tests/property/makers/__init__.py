"""Makers of random nodes, a function for each operator or family of them.

Their order is part of a seed's meaning: a new one goes to the end of its file, and seeds that were noted before it
then stand for other graphs.
"""

from __future__ import annotations

from tests.property.makers import elementwise, indexing, networks, products, reductions, shapes, windows

__all__ = ["MAKERS"]

MAKERS = (
    *elementwise.MAKERS,
    *reductions.MAKERS,
    *shapes.MAKERS,
    *indexing.MAKERS,
    *windows.MAKERS,
    *products.MAKERS,
    *networks.MAKERS,
)
