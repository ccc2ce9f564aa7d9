"""Task metrics by name: ``top1``, ``text``, ``detect`` and so on, or the user's own ``module:function``.

A metric takes both sides' outputs for one sample and says how far they agree, 0 to 1 (1: the same). With the truth it
says how far each side is right.
"""

from __future__ import annotations

import csv
import importlib
import math
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError
from mobilekit.fields import unreadable

if TYPE_CHECKING:
    from mobilekit.tensors import NamedTensors

__all__ = ["KNOWN", "TaskMetric", "Truth", "parse_metric", "read_truth"]

KNOWN = "top1, top5 (any topN), cosine, iou, text, detect, detect-map, or module:function"

_Function = Callable[["NamedTensors", "NamedTensors"], float]


@dataclass(frozen=True, slots=True)
class TaskMetric:
    """``least``: the smallest mean over the samples that passes; ``None``: only shown."""

    name: str
    least: float | None
    function: _Function

    def __call__(self, actual: NamedTensors, expected: NamedTensors) -> float:
        """Raises :class:`UsageError` where the outputs are none that the metric is for."""
        try:
            value = float(self.function(actual, expected))
        except UsageError:
            raise
        except (Exception, SystemExit) as error:  # the user's function raises what it likes
            _let_signals_through(error)
            raise UsageError(
                f"the metric {self.name} cannot judge these outputs: {_said(error)}", hint=f"--metric: {KNOWN}"
            ) from error
        if not math.isfinite(value):
            raise UsageError(f"the metric {self.name} gave {value}", hint="it must give a finite number")
        return value


def parse_metric(text: str, size: tuple[int, int] = (0, 0)) -> TaskMetric:
    """``"top5"``, ``"text=0.98"``, ``"my_package.metrics:agreement"``; ``size``: height and width of the input.

    Code is only ever named on the command line (or in Python), never by a bundle. Raises :class:`UsageError`.
    """
    name, equals, number = text.partition("=")
    least: float | None = None
    if equals:
        try:
            least = float(number)
        except ValueError:
            least = math.nan
        if not math.isfinite(least):
            raise UsageError(f"--metric {text!r}: {number!r} is no number", hint="--metric top1=0.99")
    if name.startswith("top") and name[3:].isdigit() and int(name[3:]) > 0:
        return TaskMetric(name, least, partial(_top, int(name[3:])))
    if ":" in name:
        return TaskMetric(name, least, _load(name))
    known: Mapping[str, _Function] = {
        "cosine": _cosine,
        "iou": _iou,
        "text": _text,
        "detect": partial(_detect, size, False),
        "detect-map": partial(_detect, size, True),
    }
    if name not in known:
        raise UsageError(f"there is no metric {name!r}", hint=f"--metric: {KNOWN}")
    return TaskMetric(name, least, known[name])


def _said(error: BaseException) -> str:
    return f"it left with sys.exit({error.code!r})" if isinstance(error, SystemExit) else str(error) or repr(error)


def _let_signals_through(error: BaseException) -> None:
    """A polite kill unwinds as ``SystemExit`` of 128 and more; a smaller one is the user's code leaving, which must not
    end in the exit code of a verdict that nobody gave."""
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        raise error


def _load(name: str) -> _Function:
    module, _, attribute = name.partition(":")
    # As `python -m` does: what lies in the current folder can be named.
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # the user's module does what it likes
        _let_signals_through(error)
        raise UsageError(
            f"cannot load the metric {name}: {_said(error)}", hint="module:function, importable here"
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise UsageError(f"{name} is no function", hint="it takes two dicts of arrays and gives a number")
    function: _Function = found
    return function


def _first(outputs: NamedTensors) -> str:
    return next(iter(outputs))


def _top(k: int, actual: NamedTensors, expected: NamedTensors) -> float:
    from mobilekit.metrics.agreement import top_k_agreement
    from mobilekit.metrics.tensors import class_scores

    scores = {name: found for name, array in expected.items() if (found := class_scores(array)) is not None}
    if not scores:
        raise ValueError("no output is a list of class scores")
    most = max(found.shape[1] for found in scores.values())
    if k >= most:  # all classes are among the k best of either side
        raise UsageError(
            f"--metric top{k} is always 1: the model tells {most} classes apart",
            hint="--metric top1" + (f", or up to top{most - 1}" if most > 2 else ""),
        )
    names = [name for name, found in scores.items() if k < found.shape[1]]
    return min(top_k_agreement(actual[name], expected[name], k) for name in names)


def _cosine(actual: NamedTensors, expected: NamedTensors) -> float:
    from mobilekit.metrics.agreement import cosine_rows

    return min(cosine_rows(actual[name], expected[name]) for name in expected if expected[name].ndim)


def _iou(actual: NamedTensors, expected: NamedTensors) -> float:
    from mobilekit.metrics.agreement import mean_iou

    return min(mean_iou(actual[name], expected[name]) for name in expected)


def _text(actual: NamedTensors, expected: NamedTensors) -> float:
    from mobilekit.metrics.agreement import ctc_greedy, text_agreement

    name = _first(expected)
    return text_agreement(ctc_greedy(actual[name]), ctc_greedy(expected[name]))


def _detect(size: tuple[int, int], precision: bool, actual: NamedTensors, expected: NamedTensors) -> float:
    from mobilekit.metrics.detect import average_precision, decode, f1

    ours, theirs = decode(actual, size), decode(expected, size)
    return average_precision(ours, theirs) if precision else f1(ours, theirs)


@dataclass(frozen=True, slots=True)
class Truth:
    """What is right for each sample, by its name: a class (its label, or where there is no such label its number), or a
    text."""

    wanted: Mapping[str, str]
    labels: Sequence[str]
    text: bool = False

    def check(self, samples: Sequence[str]) -> None:
        """Raises :class:`UsageError` where nothing is known of one of ``samples``."""
        unknown = [sample for sample in samples if _composed(sample) not in self.wanted]
        if unknown:
            several = f" and of {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise UsageError(
                f"the truth says nothing of {unknown[0]!r}{several}", hint="one line for each file: cat.png,tabby"
            )

    def score(self, sample: str, outputs: NamedTensors) -> float:
        """1 where the best class is the right one, else 0; of a text, 1 less the edit distance per character.

        Texts are spelt with the bundle's labels, the first of which stands for class 1: class 0 is the blank. Raises
        :class:`UsageError` where nothing is known of the sample or the outputs do not suit.
        """
        import numpy as np

        from mobilekit.metrics.agreement import ctc_greedy, text_agreement
        from mobilekit.metrics.tensors import class_scores

        self.check([sample])
        wanted = self.wanted[_composed(sample)]
        if self.text:
            if not self.labels:
                raise UsageError("texts need the bundle's labels to be spelt", hint="export with --labels DICTIONARY")
            numbers = ctc_greedy(outputs[_first(outputs)])
            spelt = [self.labels[n - 1] if n <= len(self.labels) else " " for n in numbers]
            return text_agreement("".join(spelt), wanted)
        scores = next((s for s in map(class_scores, outputs.values()) if s is not None), None)
        if scores is None:
            raise UsageError("no output is a list of class scores", hint="--truth is for classifiers, and texts")
        best = int(np.argmax(scores[0]))
        named = wanted.casefold()
        if any(named == label.casefold() for label in self.labels):  # a label of digits is no number
            return float(best < len(self.labels) and named == self.labels[best].casefold())
        classes = scores.shape[1]
        if not wanted.isascii() or not wanted.isdigit() or int(wanted) >= classes:
            raise UsageError(
                f"the truth of {sample!r}, {wanted!r}, is no label of the bundle and no class from 0 to {classes - 1}",
                hint="correct it, or export with --labels FILE",
            )
        return float(int(wanted) == best)


def _composed(name: str) -> str:
    """One spelling of a name: macOS keeps an accent apart from its letter, most editors write them as one."""
    return unicodedata.normalize("NFC", name)


def read_truth(path: Path, labels: Sequence[str], *, text: bool) -> Truth:
    """A CSV file, ``FILE,LABEL`` a line; a first line ``file,label`` or ``sample,label`` is a heading.

    Raises :class:`UsageError` where it cannot be read, a line has not two fields, or a file stands there twice.
    """
    wanted: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"cannot read the truth {path}: {unreadable(error)}", hint="a CSV file: cat.png,tabby"
        ) from error
    if rows and rows[0][0].strip().lower() in ("file", "sample"):
        rows = rows[1:]
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise UsageError(f"{path}, entry {number}: {len(row)} fields", hint="two on a line: cat.png,tabby")
        name, label = _composed(row[0].strip()), row[1].strip()
        if name in wanted:
            raise UsageError(f"{path} says twice what {name} is", hint="one line for each file")
        wanted[name] = label
    if not wanted:
        raise UsageError(f"{path} is empty", hint="a CSV file: cat.png,tabby")
    return Truth(wanted, labels, text)
