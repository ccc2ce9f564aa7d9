"""Names that ``.param`` cannot hold are escaped, and the manifest says what they were."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from mobilekit.importers.onnx import load
from mobilekit.passes import prepare
from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget
from tests.models import of_nodes, save

NAMES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    st.text("a_~ \n\t", min_size=1, max_size=4),
    st.integers(200, 300).map(lambda size: "é" * size),
)


@settings(max_examples=60)
@given(st.lists(NAMES, min_size=6, max_size=6, unique=True))
def test_names(tmp_path: Path, names: list[str]) -> None:
    """``x -> Sin -> a -> Cos -> b -> Sin -> y``, nodes named too."""
    x, a, b, y, first, second = names
    nodes = [
        helper.make_node("Sin", [x], [a], name=first),
        helper.make_node("Cos", [a], [b], name=second),
        helper.make_node("Sin", [b], [y]),
    ]
    graph = prepare(load(save(of_nodes(nodes, {x: (1, 4)}, {y: (1, 4)}), tmp_path / "m.onnx")), {}, simplify=False)
    artifact = NcnnTarget().build(graph, tmp_path / "ncnn", NcnnOptions())
    lines = (tmp_path / "ncnn" / "model.param").read_text("utf-8").split("\n")
    assert lines[-1] == ""
    layers = [line.split(" ") for line in lines[2:-1]]
    assert len(layers) == int(lines[1].split()[0]) == 4
    blobs = []
    for words in layers:
        bottoms, tops = int(words[2]), int(words[3])
        assert len(words[1].encode()) <= 255
        blobs += words[4 + bottoms : 4 + bottoms + tops]
        assert set(words[4 : 4 + bottoms]) <= set(blobs)
    assert len(set(blobs)) == len(blobs)
    assert all(blob and len(blob.encode()) <= 255 and not any(c.isspace() for c in blob) for blob in blobs)
    # Every tensor of the model is found again, by its blob's name and the manifest's map.
    assert [artifact.names.get(blob, blob) for blob in blobs] == [x, a, b, y]
    assert [(blob.tensor, artifact.names.get(blob.blob, blob.blob)) for blob in artifact.inputs] == [(x, x)]
    assert [(blob.tensor, artifact.names.get(blob.blob, blob.blob)) for blob in artifact.outputs] == [(y, y)]
