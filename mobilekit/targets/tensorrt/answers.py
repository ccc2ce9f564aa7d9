"""What a worker answers, checked: it may run on another machine, which may be any.

Plain dataclasses, so that a build imports no pydantic: that alone takes a third as long as building a small model.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from mobilekit.errors import ChildError

__all__ = ["Binding", "Built", "Checked", "EngineFacts", "Inspected", "Problem", "TimingCache", "parse_answer"]

_LONGEST_TEXT = 1 << 24


@dataclass(frozen=True, slots=True)
class Problem:
    """A node that the parser or the builder does not take; ``node`` and ``op`` are empty where it names none."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True, slots=True)
class TimingCache:
    hit: bool


@dataclass(frozen=True, slots=True)
class _BuiltOn:
    name: str
    compute_capability: str


@dataclass(frozen=True, slots=True)
class Checked:
    version: str
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Binding:
    """An input or output of a plan; ``profiles`` has (min, opt, max) shapes for each optimization profile."""

    name: str
    mode: Literal["input", "output"]
    dtype: str
    shape: tuple[int, ...]
    profiles: tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """A plan as it tells of itself, loaded. ``information``: TensorRT's JSON about layers."""

    information: str
    bindings: tuple[Binding, ...]
    device_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Inspected(EngineFacts):
    version: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Built(Checked):
    """``log``: the messages that tell of layers; ``engine``: what the plan says where there are none. ``gpu``: which
    one full TensorRT measured its kernels on."""

    warnings: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    timing_cache: TimingCache | None = None
    gpu: _BuiltOn | None = None
    engine: EngineFacts | None = None


_A = TypeVar("_A", Checked, Built, Inspected)


def parse_answer(kind: type[_A], answer: dict[str, Any], what: str) -> _A:
    """Raises :class:`ChildError` for what is no answer of that kind; ``what`` names who gave it. Fields that ``kind``
    lacks are left out."""
    try:
        read: _A = _read(kind, answer)
    except _NonsenseError as error:
        where = ".".join(reversed(error.path))
        raise ChildError(
            f"{what} gave an answer that makes no sense: {where}: {error}", hint="use one mobilekit on both sides"
        ) from error
    return read


class _NonsenseError(Exception):
    """``path``: the names of the fields that lead to it, the innermost first."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.path: list[str] = []


def _read(kind: Any, value: Any) -> Any:
    """``value``, from JSON, as the type ``kind`` says it: no conversions but of lists to tuples."""
    if is_dataclass(kind):
        return _object(kind, value)
    arguments = get_args(kind)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise _NonsenseError("no list")
        return tuple(_inner(str(index), arguments[0], item) for index, item in enumerate(value))
    if get_origin(kind) is Literal:
        if value not in arguments:
            raise _NonsenseError(f"none of {', '.join(arguments)}")
        return value
    if arguments:  # a type, or None
        return None if value is None else _read(arguments[0], value)
    if type(value) is not kind:  # True is no number
        raise _NonsenseError(f"{type(value).__name__}, not {kind.__name__}")
    if kind is str and len(value) > _LONGEST_TEXT:
        raise _NonsenseError(f"a text of {len(value)} letters")
    return value


def _object(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise _NonsenseError("no object")
    found = {}
    kinds = get_type_hints(kind)
    for field in fields(kind):
        if field.name in value:
            found[field.name] = _inner(field.name, kinds[field.name], value[field.name])
        elif field.default is MISSING:
            raise _NonsenseError(f"no {field.name}")
    return kind(**found)


def _inner(name: str, kind: Any, value: Any) -> Any:
    try:
        return _read(kind, value)
    except _NonsenseError as error:
        error.path.append(name)
        raise
