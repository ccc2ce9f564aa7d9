"""What TensorRT is given to parse."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from mobilekit.errors import UsageError
from mobilekit.importers.onnx import load
from mobilekit.targets.tensorrt.prepare import Profile, name_nodes, parse_bytes, parse_profile, prepare
from tests.models import conv_classifier, of_nodes, save


def test_a_profile_with_a_name_that_holds_colons() -> None:
    text = "serving_default:0:min=1x3x8x8,opt=2x3x8x8,max=4x3x16x16"
    assert parse_profile(text) == ("serving_default:0", Profile((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 16, 16)))


@pytest.mark.parametrize(
    "text",
    ["x", "x:1x3", "x:min=1x3,opt=1x3", "x:min=1x3,opt=1x3x3,max=1x3", "x:min=2,opt=1,max=4", "x:min=a,opt=1,max=1"],
)
def test_profiles_that_say_nothing(text: str) -> None:
    with pytest.raises(UsageError):
        parse_profile(text)


def test_sizes_in_bytes() -> None:
    assert [parse_bytes(text) for text in ("1GiB", "512 MiB", "100", "1.5kb")] == [1 << 30, 512 << 20, 100, 1500]
    with pytest.raises(UsageError, match="size"):
        parse_bytes("much")


def two_inputs(path: Path) -> Path:
    """Two inputs whose batch axes share a symbol."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["c"], name="same"),
        helper.make_node("Relu", ["c"], ["y"], name="same"),
    ]
    return save(of_nodes(nodes, {"a": ("N", 4), "b": ("N", 4)}, {"y": ("N", 4)}), path)


def test_axes_that_vary_get_names_of_their_own(tmp_path: Path) -> None:
    source = load(two_inputs(tmp_path / "m.onnx"))
    profile = Profile((1, 4), (2, 4), (8, 4))
    graph = prepare(source, {}, {"a": profile, "b": profile})
    assert [value.shape for value in graph.inputs] == [("a_0", 4), ("b_0", 4)]


def test_nodes_get_names_of_their_own(tmp_path: Path) -> None:
    graph = prepare(load(two_inputs(tmp_path / "m.onnx")), {"a": (1, 4), "b": (1, 4)}, {})
    name_nodes(graph)
    assert [node.name for node in graph.nodes] == ["same", "same#2"]


@pytest.mark.parametrize(
    ("profiles", "shapes", "said"),
    [
        ({"nobody": Profile((1,), (1,), (1,))}, {}, "no input"),
        ({"serving_default_input:0": Profile((1, 3, 4, 4), (1, 3, 8, 8), (1, 3, 8, 8))}, {}, "cannot vary"),
        (
            {"serving_default_input:0": Profile((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8))},
            {"serving_default_input:0": (1, 3, 8, 8)},
            "both a shape and a profile",
        ),
    ],
)
def test_profiles_that_contradict_the_model(
    tmp_path: Path, profiles: dict[str, Profile], shapes: dict[str, tuple[int, ...]], said: str
) -> None:
    source = load(save(conv_classifier(), tmp_path / "m.onnx"))
    with pytest.raises(UsageError, match=said):
        prepare(source, shapes, profiles)


def test_empty_inputs_of_resize_are_omitted(tmp_path: Path) -> None:
    node = helper.make_node("Resize", ["x", "roi", "empty", "sizes"], ["y"], mode="nearest")
    weights = {"roi": np.zeros(0, np.float32), "empty": np.zeros(0, np.float32), "sizes": np.array([1, 1, 8, 8])}
    model = of_nodes([node], {"x": (1, 1, 4, 4)}, {"y": (1, 1, 8, 8)}, weights)
    graph = prepare(load(save(model, tmp_path / "m.onnx")), {}, {})
    assert graph.nodes[0].inputs[1:3] == [None, None]


@pytest.mark.parametrize(
    ("b", "said"),
    [
        (None, "input 'b' has no profile, and its axis 'n' varies with that of 'a'"),
        (
            Profile((2, 4), (2, 4), (8, 4)),
            "the axis 'n' is 1, 2 and 8 in the profile of 'a' and 2, 2 and 8 in that of 'b'",
        ),
        (Profile((2, 4), (2, 4), (2, 4)), "the axis 'n' is 1, 2 and 8 in the profile of 'a' and 2 in that of 'b'"),
    ],
)
def test_inputs_that_share_an_axis_vary_alike(tmp_path: Path, b: Profile | None, said: str) -> None:
    """Else the plan runs at the usual size alone, where verification looks."""
    model = of_nodes([helper.make_node("Add", ["a", "b"], ["y"])], {"a": ("n", 4), "b": ("n", 4)}, {"y": ("n", 4)})
    profiles = {"a": Profile((1, 4), (2, 4), (8, 4)), **({"b": b} if b is not None else {})}
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        prepare(load(save(model, tmp_path / "m.onnx")), {}, profiles)
    assert caught.value.hint
