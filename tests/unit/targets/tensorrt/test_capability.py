"""Combinations that are refused before a build."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobilekit.errors import SetupError, UsageError
from mobilekit.graph import Graph
from mobilekit.importers.onnx import load
from mobilekit.targets.tensorrt.capability import check_capabilities, check_graph
from mobilekit.targets.tensorrt.flavour import FLAVOURS, choose_flavour, count_gpus, installed
from mobilekit.targets.tensorrt.prepare import prepare
from tests.models import conv_classifier, save


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return prepare(load(save(conv_classifier(), tmp_path / "m.onnx")), {}, {})


@pytest.mark.parametrize(
    ("flavour", "precision", "capability", "said"),
    [
        ("rtx", "fp32", "9.0", "does not build for compute capability 9.0"),
        ("rtx", "fp32", "6.1", "does not build"),
        ("rtx", "bf16", "7.5", "does not compute in bf16"),
        ("rtx", "fp8", "8.6", "does not compute in fp8"),
        ("rtx", "tf32", "7.5", "does not compute in tf32"),
        ("rtx", "fp32", "7.5", "no float32 matrix product"),
        ("full", "fp16", "8.6", "for the GPU that is present"),
    ],
)
def test_what_cannot_be_built(graph: Graph, flavour: str, precision: str, capability: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        check_capabilities(FLAVOURS[flavour], precision, [capability])  # type: ignore[index]
        check_graph(FLAVOURS[flavour], precision, [capability], graph)  # type: ignore[index]
    assert caught.value.hint


@pytest.mark.parametrize(
    ("precision", "capability"), [("fp16", "7.5"), ("fp8", "8.9"), ("bf16", "8.0"), ("fp32", "12.0")]
)
def test_what_can(graph: Graph, precision: str, capability: str) -> None:
    check_capabilities(FLAVOURS["rtx"], precision, [capability])
    check_graph(FLAVOURS["rtx"], precision, [capability], graph)


def test_full_tensorrt_without_it_or_without_a_gpu() -> None:
    if count_gpus() and installed(FLAVOURS["full"]):
        assert choose_flavour("full").name == "full"
        return
    with pytest.raises(SetupError) as caught:
        choose_flavour("full")
    assert caught.value.exit_code == 4
    assert caught.value.hint
