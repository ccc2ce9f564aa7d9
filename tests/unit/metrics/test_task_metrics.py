"""Task metrics: each against numbers worked out by hand, and a wrong answer scores less than a right one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilekit.metrics.agreement import (
    cosine_rows,
    ctc_greedy,
    edit_distance,
    mean_iou,
    text_agreement,
    top_k_agreement,
)
from mobilekit.metrics.detect import Detections, average_precision, decode, f1, iou_matrix


def test_top_k():
    expected = np.array([[5.0, 4, 3, 2, 1], [1, 2, 3, 4, 5]])
    actual = np.array([[5.0, 4, 1, 3, 2], [1, 2, 3, 5, 4]])
    assert top_k_agreement(actual, expected, 1) == 0.5
    assert top_k_agreement(actual, expected, 2) == 1.0
    assert top_k_agreement(actual, expected, 3) == pytest.approx((2 / 3 + 1) / 2)
    assert top_k_agreement(actual, expected, 99) == 1.0
    tie = np.array([[1.0, 1, 0]])
    assert top_k_agreement(np.array([[0.0, 1, 0]]), tie, 1) == 1.0
    with pytest.raises(ValueError, match="no list of class scores"):
        top_k_agreement(np.zeros((1, 3, 4, 4), "f4"), np.zeros((1, 3, 4, 4), "f4"), 1)


def test_cosine_is_that_of_the_worst_row():
    e = np.array([[1.0, 0], [0, 2]])
    assert cosine_rows(e * 3, e) == 1.0
    assert cosine_rows(np.array([[1.0, 0], [2, 2]]), e) == pytest.approx(2**-0.5)
    assert cosine_rows(np.zeros((1, 4)), np.zeros((1, 4))) == 1.0
    assert cosine_rows(np.ones((1, 4)), np.zeros((1, 4))) == 0.0


def test_iou_of_regions():
    mask = np.zeros((1, 1, 4, 4))
    mask[..., :2] = 0.9
    shifted = np.roll(mask, 1, axis=3)
    assert mean_iou(mask, mask) == 1.0
    assert mean_iou(shifted, mask) == pytest.approx(4 / 12)
    assert mean_iou(np.zeros_like(mask), np.zeros_like(mask)) == 1.0
    scores = np.zeros((1, 3, 2, 2))
    scores[0, 0] = 0.5
    other = scores.copy()
    other[0, 2, 0, 0] = 1
    assert mean_iou(other, scores) == pytest.approx((3 / 4 + 0) / 2)


def test_text_by_best_path():
    path = [0, 3, 3, 0, 3, 1, 1, 0]
    assert ctc_greedy(np.eye(4)[path][None]) == (3, 3, 1)
    assert ctc_greedy(np.eye(4)[path][:, None]) == (3, 3, 1)
    assert text_agreement("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert text_agreement("", "") == 1.0


@given(st.text("abc", max_size=8), st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_edit_distance_is_a_metric(a, b, c):
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


def found(*boxes):
    rows = np.array(boxes, dtype=np.float64).reshape(-1, 6)
    return Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(int))


def test_detections_are_matched_once_and_by_class():
    wanted = found((0, 0, 10, 10, 0.9, 1), (20, 20, 30, 30, 0.8, 2))
    assert f1(wanted, wanted) == average_precision(wanted, wanted) == 1.0
    twice = found((0, 0, 10, 10, 0.9, 1), (0, 0, 10, 9, 0.8, 1), (20, 20, 30, 30, 0.7, 2))
    assert f1(twice, wanted) == pytest.approx(4 / 5)
    assert average_precision(twice, wanted) == 1.0
    other = found((0, 0, 10, 10, 0.9, 2), (20, 20, 30, 30, 0.7, 2))
    assert f1(other, wanted) == 0.5
    assert average_precision(other, wanted) == pytest.approx((0 + 0.5) / 2)
    nothing = found()
    assert f1(nothing, nothing) == average_precision(nothing, nothing) == 1.0
    assert average_precision(wanted, nothing) == average_precision(nothing, wanted) == 0.0
    np.testing.assert_allclose(iou_matrix(wanted.boxes, wanted.boxes + 5)[0, 0], 25 / 175)


def test_every_known_layout_says_the_same():
    rows = np.zeros((40, 7))
    rows[:, 0], rows[:, 1] = np.arange(40) * 20 + 10, 50
    rows[:, 2:4] = 10
    rows[3, 4:] = (1.0, 0.2, 0.9)
    rows[7, 4:] = (1.0, 0.6, 0.1)
    near = rows[3].copy()
    near[0] += 1
    near[6] = 0.5
    rows[4] = near
    old = decode({"o": rows[None].astype(np.float32)}, (416, 416))
    assert old.classes.tolist() == [1, 0]
    np.testing.assert_allclose(old.boxes[0], [65, 45, 75, 55])
    np.testing.assert_allclose(old.scores, [0.9, 0.6])
    new = np.concatenate([rows[:, :4], rows[:, 5:] * rows[:, 4:5]], axis=1).T[None]
    np.testing.assert_allclose(decode({"o": new}, (416, 416)).boxes, old.boxes)
    corners = np.concatenate([rows[:, :2] - 5, rows[:, :2] + 5], axis=1)
    pair = {"scores": (rows[:, 5:] * rows[:, 4:5])[None], "boxes": corners[None]}
    np.testing.assert_allclose(decode(pair, (416, 416)).boxes, old.boxes)
    selected = np.array([[65.0, 45, 75, 55, 0.9, 1], [145, 45, 155, 55, 0.6, 0], [0, 0, 1, 1, 0.1, 0]])
    np.testing.assert_allclose(decode({"o": selected}, (416, 416)).boxes, old.boxes)
    with pytest.raises(ValueError, match="none of the detectors' layouts"):
        decode({"o": np.zeros((1, 3, 4, 5))}, (416, 416))


def test_yolox_cells_become_pixels():
    cells = 52 * 52 + 26 * 26 + 13 * 13
    rows = np.zeros((1, cells, 6))
    rows[0, 52 * 2 + 5] = (0.5, 0.5, 0.0, np.log(2), 1.0, 0.8)
    rows[0, 52 * 52 + 26 + 3] = (0.0, 0.0, 0.0, 0.0, 1.0, 0.7)
    wide = np.concatenate([rows, np.zeros((1, cells, 1))], axis=2)
    boxes = decode({"o": wide}, (416, 416)).boxes
    np.testing.assert_allclose(boxes, [[40, 12, 48, 28], [40, 8, 56, 24]])
