"""How long work tells its caller where it is; the library prints nothing itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["SILENT", "Progress", "Task"]


class Task(Protocol):
    """One bar. Units (bytes, files, compile steps) are those of the ``total`` it was opened with."""

    def advance(self, amount: float = 1) -> None: ...

    def describe(self, text: str) -> None: ...


class Progress(Protocol):
    """What a long-running library function is given to report to."""

    def step(self, text: str) -> None:
        """A new phase begins, said in a few words ("simplifying")."""
        ...

    def note(self, text: str) -> None:
        """A remark the user should see and keep (a fallback that was taken, a default that was assumed)."""
        ...

    def task(self, text: str, total: float | None = None, *, unit: str = "") -> AbstractContextManager[Task]:
        """Open a bar; ``total=None`` where the amount is not known."""
        ...


class _SilentTask:
    def advance(self, amount: float = 1) -> None:
        pass

    def describe(self, text: str) -> None:
        pass


class _Silent:
    def step(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    @contextmanager
    def _open(self) -> Iterator[Task]:
        yield _SilentTask()

    def task(self, text: str, total: float | None = None, *, unit: str = "") -> AbstractContextManager[Task]:  # noqa: ARG002
        return self._open()


SILENT: Progress = _Silent()
