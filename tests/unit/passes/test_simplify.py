"""onnxsim helps where it can and never harms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from mobilekit.errors import ChildCrashError, ChildTimeoutError
from mobilekit.importers.convert import from_proto
from mobilekit.importers.onnx import load
from mobilekit.passes import onnxsim, prepare
from mobilekit.passes.infer import infer
from mobilekit.passes.simplify import simplify, worthwhile
from tests.models import conv_classifier, of_nodes
from tests.unit.passes.checks import Node, assert_same, ops, prepared
from tests.unit.passes.test_shapes import Notes


def test_the_model_means_the_same(tmp_path: Path) -> None:
    model = conv_classifier()
    graph = prepared(model, tmp_path, simplify=True)
    assert_same(model, graph)
    weights = {value.name: value for value in graph.values() if value.const is not None}
    assert weights["conv.weight"].const is not None


def test_what_only_onnxsim_knows(tmp_path: Path) -> None:
    """A Concat of a Concat is one (fuse_consecutive_concats); the large weight comes back from its trip as an input."""
    nodes = [
        Node("Relu", ["x"], ["r"]),
        Node("Concat", ["x", "r"], ["a"], axis=1),
        Node("Concat", ["a", "x"], ["b"], axis=1),
        Node("MatMul", ["b", "w"], ["y"]),
    ]
    weights = {"w": np.random.default_rng(0).random((4, 300)).astype(np.float32)}
    model = of_nodes(nodes, {"x": (1, 2, 4, 4)}, {"y": (1, 6, 4, 300)}, weights)
    helped = prepared(model, tmp_path, simplify=True)
    assert_same(model, helped)
    assert ops(prepared(model, tmp_path))["Concat"] == 2
    assert ops(helped)["Concat"] == 1
    assert [value.name for value in helped.inputs] == ["x"]


def _graph() -> object:
    graph = from_proto(conv_classifier(), Path())
    infer(graph, target_opset=24)
    return graph


@pytest.mark.parametrize(
    "error", [ChildCrashError("onnxsim", signal=11), ChildTimeoutError("onnxsim", limit_s=1)], ids=["crash", "timeout"]
)
def test_a_crash_is_a_note(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def dies(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("mobilekit.child.call", dies)
    graph, notes = _graph(), Notes()
    assert simplify(graph, notes) is graph  # type: ignore[arg-type]
    assert "onnxsim could not simplify" in notes.notes[0]


@pytest.mark.parametrize("damage", ["garbage", "no file", "other output", "other input"])
def test_a_broken_result_is_a_note(monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    def call(function: str, request: dict[str, str], **_: object) -> bool:
        result = Path(request["result"])
        if damage == "garbage":
            result.write_bytes(b"\xff" * 100)
        elif damage == "other output":
            model = of_nodes(
                [Node("Relu", ["serving_default_input:0"], ["z"])],
                {"serving_default_input:0": (1, 3, 8, 8)},
                {"z": (1, 3, 8, 8)},
            )
            result.write_bytes(model.SerializeToString())
        elif damage == "other input":
            model = of_nodes([Node("Relu", ["q"], ["scores"])], {"q": (1, 4)}, {"scores": (1, 4)})
            result.write_bytes(model.SerializeToString())
        return True

    monkeypatch.setattr("mobilekit.child.call", call)
    graph, notes = _graph(), Notes()
    assert simplify(graph, notes) is graph  # type: ignore[arg-type]
    assert len(notes.notes) == 1


def test_the_child_imports_neither_onnx_nor_numpy_nor_sympy(tmp_path: Path) -> None:
    import subprocess
    import sys

    source = tmp_path / "in.onnx"
    source.write_bytes(conv_classifier().SerializeToString())
    program = (
        f"import sys; from {onnxsim.__name__} import run_onnxsim\n"
        f"assert run_onnxsim({str(source)!r}, {str(tmp_path / 'out.onnx')!r})\n"
        "print([name for name in ('onnx', 'numpy', 'sympy', 'onnxsim') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert (tmp_path / "out.onnx").stat().st_size


LIGHT = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("light_*.onnx"))


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_where_it_is_left_out_it_would_change_nothing(path: Path) -> None:
    graph = prepare(load(path), {}, simplify=False)
    if not worthwhile(graph):
        assert simplify(graph, Notes()) is graph


def test_it_is_left_out_of_plain_networks_only(tmp_path: Path) -> None:
    assert LIGHT
    plain = [path.stem for path in LIGHT if not worthwhile(prepare(load(path), {}, simplify=False))]
    assert {"light_resnet50", "light_squeezenet", "light_vgg19"} <= set(plain)
    x, y = {"x": (1, 6, 4, 4)}, {"y": (1, 12, 4, 4)}
    nested = [Node("Concat", ["x", "x"], ["a"], axis=2), Node("Concat", ["a", "a"], ["y"], axis=3)]
    assert worthwhile(prepared(of_nodes(nested, x, {"y": (1, 6, 8, 8)}), tmp_path))
    unknown = [Node("CumSum", ["x", "axis"], ["y"])]
    model = of_nodes(unknown, x, {"y": (1, 6, 4, 4)}, {"axis": np.array(1, np.int64)})
    assert worthwhile(prepared(model, tmp_path))
    batched = [Node("MatMul", ["x", "w"], ["m"]), Node("Add", ["m", "b"], ["y"])]
    weights = {"w": np.ones((4, 4), np.float32), "b": np.ones(4, np.float32)}
    assert worthwhile(prepared(of_nodes(batched, x, {"y": (1, 6, 4, 4)}, weights), tmp_path))
    assert not worthwhile(prepared(of_nodes([Node("Concat", ["x", "x"], ["y"], axis=1)], x, y), tmp_path))


def test_a_rotation_that_onnxsim_puts_together_is_opened_again(tmp_path: Path) -> None:
    """It makes RotaryEmbedding of how language models rotate one token's query, which no target takes as it is."""
    nodes = [
        Node("Concat", ["angles", "angles"], ["both"], axis=-1),
        Node("Cos", ["both"], ["c"]),
        Node("Sin", ["both"], ["s"]),
        Node("Unsqueeze", ["c", "one"], ["cos"]),
        Node("Unsqueeze", ["s", "one"], ["sin"]),
    ]
    for name in ("q", "k"):
        nodes += [
            Node("Transpose", [name], [f"{name}t"], perm=[0, 2, 1, 3]),
            Node("Mul", [f"{name}t", "cos"], [f"{name}_straight"]),
            Node("Slice", [f"{name}t", "zero", "half", "last"], [f"{name}_low"]),
            Node("Slice", [f"{name}t", "half", "end", "last"], [f"{name}_high"]),
            Node("Neg", [f"{name}_high"], [f"{name}_minus"]),
            Node("Concat", [f"{name}_minus", f"{name}_low"], [f"{name}_turned"], axis=-1),
            Node("Mul", [f"{name}_turned", "sin"], [f"{name}_across"]),
            Node("Add", [f"{name}_straight", f"{name}_across"], [f"{name}_out"]),
        ]
    numbers = {"one": 1, "zero": 0, "half": 8, "last": 3, "end": 2**62}
    weights = {name: np.array([value], np.int64) for name, value in numbers.items()}
    inputs = {"q": (1, 1, 4, 16), "k": (1, 1, 2, 16), "angles": (1, 1, 8)}
    model = of_nodes(nodes, inputs, {"q_out": (1, 4, 1, 16), "k_out": (1, 2, 1, 16)}, weights)
    graph = prepared(model, tmp_path, simplify=True)
    assert_same(model, graph)
    assert "RotaryEmbedding" not in ops(graph)
