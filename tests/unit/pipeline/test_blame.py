"""An error that nobody foresaw is the model's where ONNX Runtime does not take it either, else ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import ModelProto, helper

from mobilekit.errors import ModelError, UsageError
from mobilekit.pipeline.blame import blamed
from tests.models import of_nodes, save

Node = helper.make_node


def relu(**attributes: int) -> ModelProto:
    return of_nodes([Node("Relu", ["x"], ["y"], **attributes)], {"x": (2,)}, {"y": (2,)})


def test_a_model_that_cannot_be_loaded_is_malformed(tmp_path: Path) -> None:
    path = save(relu(no_such_attribute=1), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"m\.onnx is malformed: .*no_such_attribute") as caught, blamed(path):
        raise IndexError
    assert isinstance(caught.value.__cause__, IndexError)


def test_a_model_that_cannot_be_run_is_malformed(tmp_path: Path) -> None:
    # Its shape cannot be known beforehand, so that ONNX Runtime sees only while running that it does not fit.
    nodes = [Node("Cast", ["x"], ["s"], to=7), Node("Reshape", ["x", "s"], ["y"])]
    path = save(of_nodes(nodes, {"x": (3,)}, {"y": ("a", "b", "c")}), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="malformed: ONNX Runtime cannot run"), blamed(path):
        raise IndexError


def test_what_fails_on_a_good_model_is_a_bug_of_ours(tmp_path: Path) -> None:
    path = save(relu(), tmp_path / "m.onnx")
    with pytest.raises(IndexError, match="ours"), blamed(path):
        raise IndexError("ours")


def test_errors_of_ours_and_interrupts_pass(tmp_path: Path) -> None:
    path = tmp_path / "absent.onnx"
    for error in (UsageError("said"), KeyboardInterrupt(), OSError("disk")):
        with pytest.raises(type(error)) as caught, blamed(path):
            raise error
        assert caught.value is error
