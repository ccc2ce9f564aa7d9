"""The networks of the ``onnx`` package, as Caffe2 wrote them: opset 9, IR 3, weights as ConstantOfShape or inputs.

As shipped all weights are alike: the outputs are compared with those that ``onnx`` expects, which says little. With
seeded random weights in their place the architectures are proven.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.runner import Runner

from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.run import run
from tests.models import save

pytestmark = pytest.mark.slow

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = [
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
]


def test_these_are_all_of_them() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.onnx")) == [f"light_{name}" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_the_expected_output(name: str, tmp_path: Path) -> None:
    path = FOLDER / f"light_{name}.onnx"
    report = export_model(path, tmp_path / "out", ExportOptions(samples=1))
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    (source,) = (info for info in model.graph.input if info.name not in weights)
    array = Runner.generate_dummy_data(source, seed=0, name=name, random=False)
    np.save(tmp_path / "x.npy", array.astype(np.float32))
    made = run(tmp_path / "out", [str(tmp_path / "x.npy")]).tensors
    (info,) = report.manifest.outputs
    with (FOLDER / f"light_{name}_output_0.pb").open("rb") as file:
        expected = numpy_helper.to_array(onnx.TensorProto.FromString(file.read()))
    assert made[info.name].shape == expected.shape
    np.testing.assert_allclose(made[info.name], expected, rtol=1e-3, atol=1e-7)


def with_random_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """He-initialised where ConstantOfShape made all numbers alike; variances and scales near 1."""
    rng = np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    near_one = {name for node in model.graph.node if node.op_type == "BatchNormalization"
                for name in (node.input[1], node.input[4])}  # fmt: skip
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        shape = tuple(int(axis) for axis in shapes[node.input[0]])
        fan_in = max(1, int(np.prod(shape[1:])))
        array = rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / fan_in))
        if node.output[0] in near_one:
            array = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        elif len(shape) == 1:
            array = rng.uniform(-0.1, 0.1, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.ir_version = 8
    return model


@pytest.mark.parametrize("name", NAMES)
def test_the_architecture_with_random_weights(name: str, tmp_path: Path) -> None:
    model = with_random_weights(onnx.load(FOLDER / f"light_{name}.onnx"))
    report = export_model(save(model, tmp_path / "m.onnx"), tmp_path / "out")
    assert report.manifest.verified
    assert all(error.evidence and error.relative_l2 < 1e-4 for error in report.errors.values())
