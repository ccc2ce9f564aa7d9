"""Which sizes a free axis takes, and the ``NAME:1x3x320..1280x320..`` notation."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mobilekit.errors import UsageError

__all__ = ["AxisRange", "parse_dynamic_shape"]

_AXIS = re.compile(r"(?P<fixed>\d+)|(?P<low>\d*)\.\.(?P<high>\d*)(/(?P<step>\d+))?")


@dataclass(frozen=True, slots=True)
class AxisRange:
    """Sizes of a free axis: ``minimum`` to ``maximum``, multiples of ``multiple``; ``None`` where nothing is said."""

    minimum: int | None = None
    maximum: int | None = None
    multiple: int | None = None


def parse_dynamic_shape(text: str) -> tuple[str, tuple[int | AxisRange, ...]]:
    """``"x:1x3x320..1280x..1024/32"`` -> ``("x", (1, 3, AxisRange(320, 1280), AxisRange(None, 1024, 32)))``.

    The shape is what follows the last colon. An axis is a number (fixed) or ``MIN..MAX/MULTIPLE`` (free), each part
    of which may be left out but for the dots. Raises :class:`UsageError` for anything else, for no free axis, and
    for ranges that hold no size.
    """
    name, colon, shape = text.rpartition(":")
    hint = "write NAME:1x3x320..1280x320..1280, or NAME:1x3x..x.. for any size"
    if not colon or not name:
        raise UsageError(f"cannot read the dynamic shape {text!r}", hint=hint)
    axes: list[int | AxisRange] = []
    for part in shape.split("x"):
        found = _AXIS.fullmatch(part)
        if found is None:
            raise UsageError(f"cannot read the axis {part!r} of the dynamic shape {text!r}", hint=hint)
        numbers = {key: int(value) for key, value in found.groupdict().items() if value}
        if 0 in numbers.values():
            raise UsageError(f"an axis of {text!r} is zero", hint="every axis must be at least 1")
        if "fixed" in numbers:
            axes.append(numbers["fixed"])
            continue
        axis = AxisRange(numbers.get("low"), numbers.get("high"), numbers.get("step"))
        step = axis.multiple or 1
        if axis.maximum is not None and axis.maximum // step * step < (axis.minimum or 1):
            raise UsageError(f"the axis {part!r} of {text!r} has no size", hint="write the smaller number first")
        axes.append(axis)
    if not any(isinstance(axis, AxisRange) for axis in axes):
        raise UsageError(f"{text!r} has no free axis", hint=f"{hint}; --input-shape fixes a shape")
    return name, tuple(axes)
