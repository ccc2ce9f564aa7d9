"""Fixing the shapes of inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobilekit.errors import UsageError
from mobilekit.graph import Graph
from mobilekit.importers.onnx import load
from mobilekit.passes import prepare
from mobilekit.progress import Progress
from tests.models import of_nodes, save
from tests.unit.passes.checks import Node


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def step(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    task = Progress.task


def fixed(folder: Path, inputs: dict[str, tuple[int | str, ...]], **shapes: tuple[int, ...]) -> tuple[Graph, list[str]]:
    nodes = [Node("Neg", [name], [f"{name}_out"]) for name in inputs]
    model = of_nodes(nodes, inputs, {f"{name}_out": shape for name, shape in inputs.items()})
    notes = Notes()
    return prepare(load(save(model, folder / "m.onnx")), shapes, simplify=False, progress=notes), notes.notes


def test_named_shapes_fix_symbols_everywhere(tmp_path: Path) -> None:
    graph, notes = fixed(tmp_path, {"x": ("n", "h"), "z": ("h", 2)}, x=(2, 5))
    assert [value.shape for value in graph.inputs] == [(2, 5), (5, 2)]
    assert [value.shape for value in graph.outputs] == [(2, 5), (5, 2)]
    assert notes == []


def test_an_open_batch_is_one_and_said(tmp_path: Path) -> None:
    graph, notes = fixed(tmp_path, {"x": ("batch", 3)})
    assert graph.inputs[0].shape == (1, 3)
    assert len(notes) == 1
    assert "x" in notes[0]


def test_other_open_axes_are_an_error_with_the_option_to_write(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        fixed(tmp_path, {"x": ("batch", 3, "height"), "z": (1, "width")})
    assert "--input-shape 'x:1x3xN'" in caught.value.hint
    assert "--input-shape 'z:1xN'" in caught.value.hint


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"y": (1, 3)}, "no input 'y'"),
        ({"x": (1, 3, 4)}, "has 2 axes"),
        ({"x": (1, 4)}, "not 1x4"),
    ],
)
def test_shapes_that_do_not_fit(tmp_path: Path, shapes: dict[str, tuple[int, ...]], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        fixed(tmp_path, {"x": ("batch", 3)}, **shapes)
    assert caught.value.hint


def test_one_symbol_with_two_sizes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'n' cannot be both 2 and 3"):
        fixed(tmp_path, {"x": ("n",), "z": ("n",)}, x=(2,), z=(3,))


def test_an_unknown_name_lists_the_inputs(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        fixed(tmp_path, {"x": (1,), "z": (1,)}, q=(1,))
    assert caught.value.hint == "its inputs: x, z"
