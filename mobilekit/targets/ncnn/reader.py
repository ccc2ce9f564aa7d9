"""A ``.param`` read back: what the ncnn model of a bundle is, whoever wrote or edited it (``src/net.cpp``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilekit.errors import BundleError

__all__ = ["ParamLayer", "read_param", "write_layers"]

_MAGIC = "7767517"
_AGAIN = "export the model again"


@dataclass(frozen=True, slots=True)
class ParamLayer:
    """One line: ``params`` are ``id=value`` as text, by id."""

    type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[tuple[int, str], ...]

    def param(self, number: int) -> str | None:
        return dict(self.params).get(number)

    def line(self) -> str:
        words = [self.type, self.name, str(len(self.inputs)), str(len(self.outputs)), *self.inputs, *self.outputs]
        return " ".join([*words, *(f"{number}={value}" for number, value in self.params)])


def read_param(path: Path) -> tuple[ParamLayer, ...]:
    """The layers in order. Raises :class:`BundleError` where the text is no ``.param``, or a layer reads a blob that
    no layer before it makes."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"cannot read {path}: {error}", hint=_AGAIN) from error
    if not lines or lines[0].strip() != _MAGIC:
        raise BundleError(f"{path} does not begin as a .param does", hint=_AGAIN)
    layers: list[ParamLayer] = []
    made: set[str] = set()
    for number, line in enumerate(lines[2:], 3):
        if not line.strip():
            continue
        try:
            layer = _layer(line.split())
        except (ValueError, IndexError) as error:
            raise BundleError(f"{path}, line {number} is no ncnn layer", hint=_AGAIN) from error
        if missing := next((name for name in layer.inputs if name not in made), None):
            raise BundleError(f"{path}, line {number} reads the blob {missing!r}, which nothing makes", hint=_AGAIN)
        made.update(layer.outputs)
        layers.append(layer)
    return tuple(layers)


def _layer(words: Sequence[str]) -> ParamLayer:
    reads, makes = int(words[2]), int(words[3])
    if min(reads, makes) < 0 or len(words) < 4 + reads + makes:
        raise ValueError("too short")
    params = [word.split("=", 1) for word in words[4 + reads + makes :]]
    return ParamLayer(
        words[0],
        words[1],
        tuple(words[4 : 4 + reads]),
        tuple(words[4 + reads : 4 + reads + makes]),
        tuple((int(key), value) for key, value in params),
    )


def write_layers(layers: Iterable[ParamLayer], path: Path) -> None:
    every = list(layers)
    blobs = sum(len(layer.outputs) for layer in every)
    text = "".join(layer.line() + "\n" for layer in every)
    path.write_text(f"{_MAGIC}\n{len(every)} {blobs}\n{text}", encoding="utf-8")
