"""What a worker answers, checked: it may run on another machine, which may be any."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mobilekit.errors import ChildError

__all__ = ["Binding", "Built", "Checked", "EngineFacts", "Inspected", "Problem", "TimingCache", "parse_answer"]

Text = Annotated[str, Field(max_length=1 << 24)]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Problem(_Answer):
    """A node that the parser or the builder does not take; ``node`` and ``op`` are empty where it names none."""

    node: Text
    op: Text
    reason: Text


class TimingCache(_Answer):
    hit: bool


class _BuiltOn(_Answer):
    name: Text
    compute_capability: Text


class Checked(_Answer):
    version: Text
    problems: list[Problem]


class Binding(_Answer):
    """An input or output of a plan; ``profiles`` has (min, opt, max) shapes for each optimization profile."""

    name: Text
    mode: Literal["input", "output"]
    dtype: Text
    shape: list[int]
    profiles: list[list[list[int]]]


class EngineFacts(_Answer):
    """A plan as it tells of itself, loaded. ``information``: TensorRT's JSON about layers."""

    information: Text
    bindings: list[Binding]
    device_memory_bytes: int | None


class Inspected(EngineFacts):
    version: Text
    warnings: list[Text] = []


class Built(Checked):
    """``log``: the messages that tell of layers; ``engine``: what the plan says where there are none. ``gpu``: which
    one full TensorRT measured its kernels on."""

    warnings: list[Text] = []
    log: list[Text] = []
    timing_cache: TimingCache | None = None
    gpu: _BuiltOn | None = None
    engine: EngineFacts | None = None


_A = TypeVar("_A", bound=_Answer)


def parse_answer(kind: type[_A], answer: dict[str, Any], what: str) -> _A:
    """Raises :class:`ChildError` for what is no answer of that kind; ``what`` names who gave it."""
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ChildError(
            f"{what} gave an answer that makes no sense: {where}: {first['msg']}",
            hint="use one mobilekit on both sides",
        ) from error
