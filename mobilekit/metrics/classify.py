"""From a classifier's output to an answer in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mobilekit.errors import UsageError

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["Answer", "classify", "is_probabilities", "probabilities"]

_SUM_TOLERANCE = 1e-2
"""How far the sum of probabilities may be from 1: fp16 results of 1000 classes stay within it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One class: its label (``"class 7"`` where the model has no labels), its probability and its index."""

    label: str
    probability: float
    index: int


def is_probabilities(output: Array) -> bool:
    """Whether a classifier's scores already went through softmax: none below 0, and a sum of 1 within 1%."""
    import numpy as np

    scores = _scores(output)
    return bool(scores.min() >= -1e-6 and abs(float(np.sum(scores)) - 1.0) <= _SUM_TOLERANCE)


def probabilities(output: Array) -> Array:
    """The scores of ``output`` as ``(classes,)`` float64: as they are where they are probabilities, else softmax."""
    import numpy as np

    scores = _scores(output)
    if is_probabilities(output):
        return scores  # type: ignore[no-any-return]
    exponentials = np.exp(scores - scores.max())
    result: Array = exponentials / exponentials.sum()
    return result


def classify(output: Array, labels: Sequence[str] | None = None, *, top: int = 5) -> list[Answer]:
    """The ``top`` most probable classes of ``output``, best first; of equal ones the lower index first.

    ``output`` holds one score a class and is otherwise of size 1 (``(1, classes)``, ``(1, classes, 1, 1)``). Raises
    :class:`UsageError` where it holds a batch, values that are not finite, or a number of classes that differs from
    the number of ``labels``.
    """
    import numpy as np

    values: Any = probabilities(output)
    if labels is not None and len(labels) != values.size:
        raise UsageError(
            f"there are {len(labels)} labels, but the model has {values.size} classes",
            hint="give a label file with one line for each class",
        )
    order = np.argsort(-values, kind="stable")[: max(top, 0)]
    return [Answer(labels[i] if labels else f"class {i}", float(values[i]), int(i)) for i in order]


def _scores(output: Array) -> Any:
    import numpy as np

    classes = max(output.shape, default=1)
    if output.size != classes or output.size == 0:
        shape = "x".join(map(str, output.shape))
        raise UsageError(f"an output of shape {shape} is no single list of class scores", hint="run it without labels")
    scores = np.asarray(output, dtype=np.float64).reshape(-1)
    if not np.isfinite(scores).all():
        raise UsageError("the class scores are not all finite numbers", hint="check the model, or try --precision fp32")
    return scores
