"""Large weights that lie in the model's own file are read from there, and all else is as protobuf has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mobilekit.errors import ModelError
from mobilekit.importers.convert import from_proto
from mobilekit.importers.located import without_weights
from mobilekit.importers.onnx import SourceModel, load
from mobilekit.pipeline.export import ExportOptions, export_model
from tests.models import of_nodes, save

WIDTH = 2048


def _model(rows: int) -> ModelProto:
    """y = (x w + b) reshaped; ``w`` is of (2048, rows)."""
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((WIDTH, rows), np.float32), rng.standard_normal(rows, np.float32)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["g"]), helper.make_node("Reshape", ["g", "s"], ["y"])]
    proto = of_nodes(nodes, {"x": [1, WIDTH]}, {"y": [1, 1, rows]})
    given_ = {"b": b, "w": w, "s": np.array([1, 1, -1])}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in given_.items())
    return proto


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(_model(2100), tmp_path_factory.mktemp("large") / "m.onnx")


def _weights(source: SourceModel) -> dict[str, np.ndarray]:
    graph = from_proto(source.proto, source.path.parent)
    return {
        value.name: value.const for node in graph.nodes for value in node.inputs if value and value.const is not None
    }


def test_a_large_model_is_parsed_without_its_weights_and_has_them(large: Path) -> None:
    source = load(large)
    assert source.proto.ByteSize() < 20_000
    assert source.external_files == ()
    assert source.size_bytes == large.stat().st_size
    found, whole = _weights(source), onnx.load(large)
    assert found.keys() == {"w", "b", "s"}
    for tensor in whole.graph.initializer:
        np.testing.assert_array_equal(found[tensor.name], numpy_helper.to_array(tensor))
    again = source.whole_proto()
    assert {t.name: t.raw_data for t in again.graph.initializer} == {
        t.name: t.raw_data for t in whole.graph.initializer
    }
    onnx.checker.check_model(again)


def test_it_exports_verified_and_its_passes_too(large: Path, tmp_path: Path) -> None:
    for options in (ExportOptions(), ExportOptions(verify_passes=True)):
        report = export_model(large, tmp_path / "b", options)
        assert report.manifest.verified
        assert [path.name for path in (tmp_path / "b" / "source").iterdir()] == ["model.onnx"]


def test_a_link_out_of_the_folder_is_read_as_a_whole(large: Path, tmp_path: Path) -> None:
    link = tmp_path / "linked.onnx"
    link.symlink_to(large)
    source = load(link)
    np.testing.assert_array_equal(_weights(source)["w"], _weights(load(large))["w"])
    assert source.whole_proto() is source.proto


def test_a_file_that_names_itself_as_its_data_keeps_what_it_says(large: Path, tmp_path: Path) -> None:
    proto = onnx.load(large)
    bias = proto.graph.initializer[0]
    bias.ClearField("raw_data")
    bias.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "m.onnx"), ("offset", "64"), ("length", str(4 * 2100))):
        bias.external_data.add(key=key, value=value)
    path = save(proto, tmp_path / "m.onnx")
    source = load(path)
    assert source.external_files == ("m.onnx",)
    np.testing.assert_array_equal(_weights(source)["w"], _weights(load(large))["w"])
    np.testing.assert_array_equal(_weights(source)["b"], np.frombuffer(path.read_bytes()[64 : 64 + 8400], np.float32))


def test_a_truncated_large_file_is_refused(large: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(large.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="damaged"):
        load(tmp_path / "cut.onnx")


SMALL = _model(9).SerializeToString()
"""Its weight is just large enough to be left out."""


def _parsed(data: bytes) -> ModelProto | None:
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        return None
    return proto


def _filled(proto: ModelProto, data: bytes) -> ModelProto:
    for tensor in proto.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries.get("location") == "the file":
            begin = int(entries["offset"])
            tensor.raw_data = data[begin : begin + int(entries["length"])]
            del tensor.external_data[:]
            tensor.ClearField("data_location")
    return proto


def test_what_is_left_out_can_be_put_back() -> None:
    found = without_weights(SMALL, "the file")
    assert found is not None
    assert (found[1], len(found[0]) < 2000) == (1, True)
    assert _filled(ModelProto.FromString(found[0]), SMALL) == ModelProto.FromString(SMALL)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400) | st.integers(len(SMALL) - 400, len(SMALL) - 1), st.integers(0, 255))),
    st.none() | st.integers(1, len(SMALL)),
)
def test_of_a_damaged_file_it_says_what_protobuf_does(changes: list[tuple[int, int]], length: int | None) -> None:
    damaged = bytearray(SMALL)
    for at, byte in changes:
        damaged[at] = byte
    data = bytes(damaged[:length])
    found = without_weights(data, "the file")
    if found is None:
        return
    without, whole = _parsed(found[0]), _parsed(data)
    assert (without is None) == (whole is None)
    if without is not None and whole is not None:
        assert _filled(without, data).SerializeToString(deterministic=True) == whole.SerializeToString(
            deterministic=True
        )
