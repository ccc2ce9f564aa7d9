"""Rows that tie and stand the other way round are told from rows that are wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from mobilekit.bundle import open_bundle
from mobilekit.metrics.order import put_back
from mobilekit.metrics.tensors import compare
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.validate.tolerance import Verdict, judge, tolerance_for
from tests.models import of_nodes, save

PICKS = replace(tolerance_for("fp32"), picks=True)


def boxes(count: int = 300, width: int = 6) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((1, count, width)).astype(np.float32)


def exchanged(array: np.ndarray, *pairs: tuple[int, int]) -> np.ndarray:
    order = np.arange(array.shape[1])
    for one, other in pairs:
        order[[one, other]] = order[[other, one]]
    return array[:, order] * np.float32(1 + 1e-6)


@pytest.mark.parametrize("pairs", [[(199, 200)], [(0, 1), (7, 9), (298, 299)]])
def test_rows_that_tie_are_right_where_the_model_picks_by_score(pairs: list[tuple[int, int]]) -> None:
    expected = boxes()
    error = compare(exchanged(expected, *pairs), expected)
    assert error.relative_l2 > 0.01
    assert error.moved == 2 * len(pairs)
    assert error.in_order_l2 < 1e-5
    judged = judge(error, PICKS)
    assert judged.verdict is Verdict.PASS
    assert f"{2 * len(pairs)} rows stand in another order" in judged.reason
    assert judge(error, tolerance_for("fp32")).verdict is Verdict.FAIL, "no model without such an operator does that"


def test_labels_and_scores_of_those_rows_are_right_too() -> None:
    labels = np.arange(1, 301, dtype=np.int64)[None]
    assert judge(compare(exchanged(labels, (4, 5)).astype(np.int64), labels), PICKS).verdict is Verdict.PASS


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rows: rows[:, ::-1],  # the worst first
        lambda rows: exchanged(rows, (3, 200)),  # far from its place
        lambda rows: np.roll(rows, 1, axis=1),
        lambda rows: np.concatenate([rows[:, :1], rows[:, :-1]], axis=1),  # one twice, one gone
        lambda rows: exchanged(rows, (3, 4)) + np.float32(0.01),  # another order and wrong as well
        lambda rows: np.where(np.arange(300)[None, :, None] == 5, 0, rows),
    ],
    ids=["reversed", "far", "shifted", "doubled", "wrong-too", "missing"],
)
def test_what_is_wrong_stays_wrong(wrong) -> None:
    expected = boxes()
    assert judge(compare(np.asarray(wrong(expected), np.float32), expected), PICKS).verdict is Verdict.FAIL


@given(st.integers(2, 40), st.integers(1, 5), st.data())
def test_rows_are_found_again(count: int, width: int, data: st.DataObject) -> None:
    expected = boxes(count, width)
    one = data.draw(st.integers(0, count - 2))
    other = data.draw(st.integers(one + 1, min(count - 1, one + 4)))
    back, moved = put_back(exchanged(expected, (one, other)), expected)
    assert moved == 2
    np.testing.assert_allclose(back, expected, rtol=1e-5)


def test_a_bundle_knows_whether_its_model_picks(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["s"], axes=[2], keepdims=0),
        helper.make_node("TopK", ["s", "k"], ["v", "i"]),
        helper.make_node("Relu", ["x"], ["r"]),
    ]
    x = {"x": (1, 4000, 4)}
    picking = of_nodes(nodes[:2], x, {"v": (1, 300)}, {"k": np.array([300], np.int64)})
    for name, proto, picks in (
        ("picking", picking, True),
        ("plain", of_nodes(nodes[2:], x, {"r": (1, 4000, 4)}), False),
    ):
        export_model(save(proto, tmp_path / f"{name}.onnx"), tmp_path / name, ExportOptions(verify=False))
        assert open_bundle(tmp_path / name).manifest.picks is picks
