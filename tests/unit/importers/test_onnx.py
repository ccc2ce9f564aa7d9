"""What load takes and refuses."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilekit.errors import ModelError
from mobilekit.importers.convert import from_proto
from mobilekit.importers.onnx import load
from mobilekit.tensors import TensorSpec
from tests.models import conv_classifier, of_nodes, save


def test_describes_a_model(tmp_path: Path) -> None:
    path = save(conv_classifier(side="side"), tmp_path / "m.onnx")
    model = load(path)
    assert model.inputs == (TensorSpec("serving_default_input:0", "float32", (1, 3, "side", "side")),)
    assert model.outputs == (TensorSpec("scores", "float32", (1, 4)),)
    assert (model.opset, model.ir_version, model.external_files) == (17, 8, ())
    assert model.size_bytes == path.stat().st_size


def test_weights_listed_as_inputs_are_not_inputs(tmp_path: Path) -> None:
    model = conv_classifier()
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    loaded = load(save(model, tmp_path / "old.onnx"))
    assert [spec.name for spec in loaded.inputs] == ["serving_default_input:0"]
    assert [value.name for value in from_proto(loaded.proto, tmp_path).inputs] == ["serving_default_input:0"]


@pytest.mark.parametrize("name", ["?", ""])
def test_nameless_axes_are_not_one_symbol(tmp_path: Path, name: str) -> None:
    model = of_nodes([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, "h", "w"]}, {"y": [1, "h", "w"]})
    for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]:
        dim.dim_param = name
    assert load(save(model, tmp_path / "m.onnx")).inputs[0].shape == (1, None, None)


def _relu(**keywords: object) -> onnx.ModelProto:
    return of_nodes([helper.make_node("Relu", ["x"], ["y"])], {"x": [2]}, {"y": [2]}, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not an ONNX model"),
        (b"solver: 1\nlayer {", "not an ONNX model"),
        (bytes(64), "not an ONNX model"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=says):
        load(path)


def test_truncated_and_random_bytes_are_model_errors(tmp_path: Path) -> None:
    data = conv_classifier().SerializeToString()
    path = tmp_path / "m.onnx"
    rng = random.Random(3)
    refused = 0
    for length in range(0, len(data), 37):
        for content in (data[:length], rng.randbytes(length)):
            path.write_bytes(content)
            try:
                from_proto(load(path).proto, tmp_path)
            except ModelError:
                refused += 1
    assert refused > len(data) // 37


def test_absent_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no file"):
        load(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        load(tmp_path)


@pytest.mark.parametrize(("opset", "says"), [(5, "oldest that can be read is 7"), (99, "knows up to")])
def test_opsets_out_of_range(tmp_path: Path, opset: int, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        load(save(_relu(opset=opset), tmp_path / "m.onnx"))
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["sequence", "optional", "sparse_tensor"])
def test_inputs_that_are_no_tensors(tmp_path: Path, kind: str) -> None:
    model = _relu()
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    types = {
        "sequence": helper.make_sequence_type_proto(tensor),
        "optional": helper.make_optional_type_proto(tensor),
        "sparse_tensor": helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [2]),
    }
    model.graph.input.append(helper.make_value_info("other", types[kind]))
    with pytest.raises(ModelError, match=kind.replace("_", " ")):
        load(save(model, tmp_path / "m.onnx"))


def test_no_outputs_and_twice_the_same_output(tmp_path: Path) -> None:
    none, twice = _relu(), _relu()
    del none.graph.output[:]
    twice.graph.output.append(twice.graph.output[0])
    with pytest.raises(ModelError, match="no outputs"):
        load(save(none, tmp_path / "none.onnx"))
    with pytest.raises(ModelError, match="two outputs of the same name"):
        load(save(twice, tmp_path / "twice.onnx"))


def _external(folder: Path, location: str = "weights.bin", *, offset: int = 0, length: int = 16) -> Path:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        weight.external_data.add(key=key, value=value)
    model = of_nodes([helper.make_node("Add", ["x", "w"], ["y"])], {"x": [4]}, {"y": [4]})
    model.graph.initializer.append(weight)
    return save(model, folder / "m.onnx")


def test_external_data_is_mapped(tmp_path: Path) -> None:
    wanted = np.arange(4, dtype=np.float32)
    (tmp_path / "weights.bin").write_bytes(bytes(8) + wanted.tobytes())
    model = load(_external(tmp_path, offset=8))
    assert model.external_files == ("weights.bin",)
    assert model.size_bytes == (tmp_path / "m.onnx").stat().st_size + 24
    weight = next(v for v in from_proto(model.proto, tmp_path).values() if v.name == "w")
    assert weight.const is not None
    assert not weight.const.flags.owndata
    np.testing.assert_array_equal(weight.const, wanted)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "sub/../../weights.bin", "C:\\w.bin"])
def test_external_data_may_not_leave_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    with pytest.raises(ModelError, match="out of the model's folder"):
        load(_external(folder, location))


def test_external_data_may_not_leave_through_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    (folder / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ModelError, match="link that leads out"):
        load(_external(folder))


def test_external_data_missing_or_short(tmp_path: Path) -> None:
    path = _external(tmp_path)
    with pytest.raises(ModelError, match="is missing") as caught:
        load(path)
    assert "weights.bin" in caught.value.hint
    (tmp_path / "weights.bin").write_bytes(bytes(15))
    with pytest.raises(ModelError, match="has 15"):
        load(path)


def test_external_data_of_another_size_than_the_shape(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    model = load(_external(tmp_path, length=12))
    with pytest.raises(ModelError, match="needs 16 bytes, not 12"):
        from_proto(model.proto, tmp_path)


def test_inline_data_of_another_size_than_the_shape(tmp_path: Path) -> None:
    model = of_nodes([helper.make_node("Add", ["x", "w"], ["y"])], {"x": [4]}, {"y": [4]})
    weight = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    weight.dims[0] = 5
    model.graph.initializer.append(weight)
    with pytest.raises(ModelError, match="needs 20 bytes, not 16"):
        from_proto(load(save(model, tmp_path / "m.onnx")).proto, tmp_path)
