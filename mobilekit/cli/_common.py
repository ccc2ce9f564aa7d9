"""What every command shares: consoles, progress on the terminal, JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mobilekit.progress import SILENT

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console, RenderableType

    from mobilekit.progress import Progress, Task
    from mobilekit.targets.base import TargetName
    from mobilekit.tuning import Cluster

__all__ = ["arithmetic", "give_report", "out_console", "print_json", "printable", "remark", "terminal_progress"]


def out_console() -> Console:
    """Results go to stdout."""
    from rich.console import Console

    return Console(highlight=False)


def printable(text: str) -> str:
    """The text without anything but line ends that a terminal would act on: names and labels come from strangers."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def remark(text: str) -> None:
    """One line to stderr, where progress, remarks and errors go, so that stdout stays clean for a script."""
    print(printable(text), file=sys.stderr)


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def arithmetic(precision: str | None) -> Literal["fp32", "fp16"] | None:
    """``--precision`` of what runs in either; :class:`~mobilekit.errors.UsageError` for anything else."""
    if precision is None:
        return None
    if precision not in ("fp32", "fp16"):
        from mobilekit.errors import UsageError

        raise UsageError(f"unknown precision {precision!r}", hint="fp32 or fp16")
    return "fp16" if precision == "fp16" else "fp32"


def target_name(text: str | None) -> TargetName | None:
    """``--target``; :class:`~mobilekit.errors.UsageError` for what is none."""
    if text not in (None, "ncnn", "tensorrt"):
        from mobilekit.errors import UsageError

        raise UsageError(f"unknown target {text!r}", hint="ncnn or tensorrt")
    return text  # type: ignore[return-value]  # checked above


def thread_counts(text: str | None, least: int = 1) -> tuple[int, ...]:
    """``1,2,4``; :class:`~mobilekit.errors.UsageError` for anything else."""
    from mobilekit.errors import UsageError

    try:
        counts = tuple(dict.fromkeys(int(part) for part in text.split(","))) if text else ()
    except ValueError:
        counts = (-1,)
    if any(not least <= count <= 256 for count in counts):
        raise UsageError(f"--threads {text!r} is not understood", hint="--threads 2, or --threads 1,2,4")
    return counts


def some_of(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    """``big,little``: words of ``known``; :class:`~mobilekit.errors.UsageError` for others."""
    from mobilekit.errors import UsageError

    words = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for word in words:
        if word not in known:
            raise UsageError(f"{option} {word!r} is unknown", hint=f"{option} {','.join(known)}, or some of them")
    return words


def clusters(text: str | None) -> tuple[Cluster, ...]:
    """``--cluster``; empty without."""
    return tuple([] if text is None else some_of("--cluster", text, ("all", "big", "little")))  # type: ignore[arg-type]


def give_report(report: BaseModel, json_: Path | None, render: Callable[[], RenderableType | str]) -> None:
    """As ``--json`` asks: JSON on stdout for ``-``; else the text there, and JSON in a file if one is named."""
    text = report.model_dump_json(indent=2) + "\n"
    if json_ is not None and str(json_) == "-":
        sys.stdout.write(text)
        return
    if json_ is not None:
        from mobilekit.paths import write_text

        write_text(json_, text)
    out_console().print(render(), markup=False)


class _Lines:
    """Progress as plain lines, for a log: no need of rich, which takes 0.05 s to import."""

    def step(self, text: str) -> None:
        print(printable(text), file=sys.stderr, flush=True)

    note = step

    @contextmanager
    def task(self, text: str, total: float | None = None, *, unit: str = "") -> Iterator[Task]:  # noqa: ARG002
        self.step(text)
        with SILENT.task(text) as silent:
            yield silent


class _Terminal:
    """Progress as rich bars, for a terminal."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._step: Any = None

    def step(self, text: str) -> None:
        self.end_step()
        self._step = self._bars.add_task(printable(text), total=None, shown="")

    def end_step(self) -> None:
        if self._step is not None:
            self._bars.remove_task(self._step)
            self._step = None

    def note(self, text: str) -> None:
        self._console.print(printable(text), markup=False)

    @contextmanager
    def task(self, text: str, total: float | None = None, *, unit: str = "") -> Iterator[Task]:
        self.end_step()
        bar = _Bar(self._bars, self._bars.add_task(text, total=total, shown=""), total, unit)
        try:
            yield bar
        finally:
            self._bars.remove_task(bar.id)


class _Bar:
    def __init__(self, bars: Any, id_: Any, total: float | None, unit: str) -> None:
        self._bars, self.id, self._total, self._unit, self._done = bars, id_, total, unit, 0.0

    def advance(self, amount: float = 1) -> None:
        self._done += amount
        self._bars.update(self.id, advance=amount, shown=self._shown())

    def describe(self, text: str) -> None:
        self._bars.update(self.id, description=text)

    def _shown(self) -> str:
        if self._unit == "bytes":
            total = f" / {self._total / 1e6:.1f}" if self._total else ""
            return f"{self._done / 1e6:.1f}{total} MB"
        total = f"/{self._total:g}" if self._total else ""
        return f"{self._done:g}{total} {self._unit}"


@contextmanager
def terminal_progress() -> Iterator[Progress]:
    """A :class:`~mobilekit.progress.Progress` on stderr for the time of one command."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console

    terminal = _Terminal(Console(stderr=True, highlight=False))
    with terminal._bars:
        try:
            yield terminal
        finally:
            terminal.end_step()
