"""The drawing of a plan: whole, harmless, and legible."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilekit.errors import BundleError, UsageError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.inspect_plan import draw_plan, inspect_plan
from mobilekit.report.fusion_graph import dot, html, svg
from mobilekit.targets.tensorrt.flavour import FLAVOURS, installed
from tests.models import conv_classifier, save

SVG = "{http://www.w3.org/2000/svg}"


def tensor(name: str, dtype: str = "Half", shape: Sequence[int] = (1, 8, 4, 4)) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape), "format": ""}


def layer(
    name: str, reads: Sequence[str], makes: Sequence[str], nodes: Sequence[str] = (), **more: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "kind": more.pop("kind", "kgen"),
        "tactic": "",
        "inputs": [tensor(read, **more) for read in reads],
        "constants": [],
        "outputs": [tensor(make, **more) for make in makes],
        "onnx_nodes": list(nodes),
    }


DIAMOND = [
    layer("a", ["x"], ["t"], ["/conv", "/relu"]),
    layer("b", ["t"], ["u"], ["/left"]),
    layer("c", ["u"], ["v"], ["/further"], dtype="Int8"),
    layer("d", ["v", "t"], ["y"], ["/add"]),  # reads t past two ranks
    layer("w", [], [], kind="wait"),
]


def boxes(picture: str) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and bottom of each box by the first line of its tooltip; raises where the XML is not whole."""
    found = {}
    for group in ET.fromstring(picture).iter(f"{SVG}g"):
        title, rect = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None
        assert rect is not None
        x, y, width, height = (float(rect.get(key, "nan")) for key in ("x", "y", "width", "height"))
        found[(title.text or "").splitlines()[0]] = (x, y, x + width, y + height)
    return found


def no_two_overlap(picture: str) -> None:
    placed = boxes(picture)
    for (one, a), (other, b) in itertools.combinations(placed.items(), 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{one} lies over {other}"


def test_layers_their_nodes_and_what_flows_between() -> None:
    picture = svg(DIAMOND)
    placed = boxes(picture)
    assert placed.keys() == {"x", "a (kgen)", "b (kgen)", "c (kgen)", "d (kgen)", "y"}
    order = [placed[name][1] for name in ("x", "a (kgen)", "b (kgen)", "c (kgen)", "d (kgen)", "y")]
    assert order == sorted(set(order)), "what is read stands above what reads it"
    text = "".join(ET.fromstring(picture).itertext())
    for word in ("/conv", "/relu", "/left", "/add", "Half 1x8x4x4", "Int8 1x8x4x4", "1 layers that only wait"):
        assert word in text
    assert ET.fromstring(picture).findall(f".//{SVG}g[@class='i8']")
    no_two_overlap(picture)


def test_a_long_edge_goes_past_the_boxes_between() -> None:
    picture = svg(DIAMOND)
    placed = boxes(picture)
    past = re.findall(r'd="M([\d.-]+) ([\d.]+)V([\d.]+)', picture)
    assert len(past) == 2  # one straight piece for each rank between a and d
    for x, top, bottom in past:
        for left, upper, right, lower in placed.values():
            assert not (left < float(x) < right and upper < float(bottom) and float(top) < lower)


def test_a_page_loads_nothing_and_is_dark_where_the_reader_is() -> None:
    page = html(DIAMOND, "model & co")
    assert "default-src 'none'" in page
    assert "prefers-color-scheme:dark" in page
    assert "<h1>model &amp; co</h1>" in page
    assert not re.search(r"https?://", page.replace("http://www.w3.org/2000/svg", ""))
    assert "<script" not in page


EVIL = "</svg><script>alert(\"x\")</script><svg onload='1'>&\x00\x1b\ud800\n"


def test_names_cannot_break_out() -> None:
    layers = [layer(EVIL, [EVIL], ["y" + EVIL], [EVIL, "a" * 500], kind=EVIL, dtype=EVIL)]
    for text in (svg(layers), html(layers, EVIL)):
        assert "<script" not in text
        text.encode("utf-8")
    ET.fromstring(svg(layers))
    for line in dot(layers).splitlines():
        assert len(re.findall(r'(?<!\\)"', line)) % 2 == 0
    dot(layers).encode("utf-8")


def test_many_nodes_in_one_layer_are_counted() -> None:
    picture = svg([layer("a", ["x"], ["y"], [f"/node{index}" for index in range(435)])])
    assert "and 429 more" in picture
    assert "/node434" in picture  # in the tooltip


def test_graphviz() -> None:
    text = dot(DIAMOND)
    assert text.startswith("digraph")
    assert text.count("->") == 6
    assert r"kgen\n/conv\n/relu" in text


@settings(max_examples=60)
@given(st.data())
def test_any_graph_of_layers_is_drawn_without_overlaps(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 25))
    layers = []
    names = ["x", "z"]
    for index in range(count):
        reads = data.draw(st.lists(st.sampled_from(names), max_size=3))
        makes = data.draw(st.lists(st.sampled_from([f"t{index}", f"u{index}", names[-1]]), max_size=2, unique=True))
        nodes = [f"n{index}_{k}" for k in range(data.draw(st.integers(0, 9)))]
        layers.append(layer(f"l{index}", reads, makes, nodes))
        names += makes
    no_two_overlap(svg(layers))


def test_a_deep_plan_is_no_deep_recursion() -> None:
    layers = [layer(f"l{i}", [f"t{i}", "t0"], [f"t{i + 1}"], [f"n{i}"]) for i in range(3000)]
    assert len(boxes(svg(layers))) == 3002


@pytest.mark.parametrize(
    "layers", [[{}], [1], [layer("a", ["x"], ["y"]) | {"inputs": [{}]}], [layer("a", ["x"], ["y"]) | {"onnx_nodes": 3}]]
)
def test_a_sidecar_that_makes_no_sense(layers: list[Any]) -> None:
    for draw in (svg, dot, lambda each: html(each, "t")):
        with pytest.raises(BundleError):
            draw(layers)


@pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]")
def test_a_real_plan(tmp_path: Path) -> None:
    path = save(conv_classifier(), tmp_path / "m.onnx")
    export_model(path, tmp_path / "out", ExportOptions(targets=("tensorrt",)))
    view = inspect_plan(tmp_path / "out")
    for name in ("a.html", "a.svg", "a.DOT"):
        assert "/conv" in draw_plan(view, tmp_path / name, "m").read_text()
    assert boxes((tmp_path / "a.svg").read_text()).keys() >= {"serving_default_input:0", "scores"}
    with pytest.raises(UsageError, match="what to draw"):
        draw_plan(view, tmp_path / "a.png", "m")
    assert not (tmp_path / "a.png").exists()
