"""Tables that fit the terminal: rich cuts what is too wide, the last column first, and that is the verdict's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

__all__ = ["Fitting"]

_ANY_WIDTH = 10_000


class Fitting:
    """The table that ``make`` makes, given the columns to leave out: as few of ``dispensable``, in their order, as the
    width allows. A column whose header must not be cut has a ``min_width``."""

    def __init__(self, make: Callable[[Collection[str]], Table], dispensable: Sequence[str]) -> None:
        self._make, self._dispensable = make, dispensable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        anything = options.update_width(_ANY_WIDTH)  # a table never says that it needs more than it is offered
        for count in range(len(self._dispensable) + 1):
            table = self._make(self._dispensable[:count])
            if table.__rich_measure__(console, anything).minimum <= options.max_width:
                break
        yield table
