"""compare() against its documented formulas, and against wrong tensors, which must come out wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mobilekit.metrics.tensors import class_scores, compare, top1_agreement, worst

values = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=4, max_side=6),
    elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_nan=False, allow_infinity=False),
)


@given(values)
def test_a_tensor_has_no_distance_from_itself(array):
    error = compare(array, array.copy())
    assert (error.max_abs, error.max_rel, error.relative_l2, error.mismatch) == (0.0, 0.0, 0.0, "")
    assert error.cosine == pytest.approx(1.0)
    assert error.psnr_db == math.inf


@given(values, st.floats(1e-4, 0.5))
def test_scaling_by_one_plus_x_is_a_relative_error_of_x(array, x):
    wide = array.astype(np.float64)
    assume(np.max(np.abs(wide)) > 1e-20)
    error = compare(wide * (1 + x), wide)
    assert error.relative_l2 == pytest.approx(x, rel=1e-6)
    assert error.max_rel == pytest.approx(x, rel=1e-6)
    assert error.max_abs == pytest.approx(x * np.max(np.abs(wide)), rel=1e-6)
    assert error.cosine == pytest.approx(1.0)


def test_formulas_on_numbers_worked_by_hand():
    expected = np.array([3.0, 4.0, 0.0, 0.0])
    actual = np.array([3.0, 4.0, 0.0, 2.5])
    error = compare(actual, expected)
    assert error.max_abs == 2.5
    assert error.relative_l2 == pytest.approx(0.5)
    assert error.cosine == pytest.approx(25 / (5 * math.sqrt(31.25)))
    assert error.max_rel == pytest.approx(2.5 / (1e-3 * 4))
    assert error.psnr_db == pytest.approx(10 * math.log10(16 / (6.25 / 4)))


@given(st.integers(0, 2**32 - 1))
def test_a_permuted_tensor_is_far_off(seed):
    rng = np.random.default_rng(seed)
    expected = rng.standard_normal((1, 64)).astype(np.float32)
    actual = np.roll(expected, 1, axis=1)
    error = compare(actual, expected)
    assert error.relative_l2 > 0.5
    assert error.cosine < 0.9


def test_squares_that_overflow_or_vanish_in_float64_still_count():
    for size in (1e200, 1e-200):
        expected = np.array([1.0, 2.0]) * size
        assert compare(expected * 1.5, expected).relative_l2 == pytest.approx(0.5)


def test_shape_and_dtype_come_before_values():
    expected = np.ones((2, 3), np.float32)
    assert compare(np.ones((3, 2), np.float32), expected).mismatch == "shape [3, 2] instead of [2, 3]"
    other = compare(np.ones((2, 3), np.float64), expected)
    assert other.mismatch == "dtype float64 instead of float32"
    assert other.relative_l2 == math.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_nan_or_infinity_too_many_makes_the_errors_infinite(bad):
    expected = np.array([1.0, 2.0, 3.0])
    actual = np.array([1.0, bad, 3.0])
    error = compare(actual, expected)
    assert error.relative_l2 == math.inf
    assert (error.nonfinite_actual, error.nonfinite_expected) == (1, 0)
    assert compare(expected, actual).relative_l2 == math.inf


def test_the_same_nan_and_infinity_on_both_sides_agree():
    array = np.array([1.0, np.nan, np.inf, 4.0])
    error = compare(array, array.copy())
    assert error.relative_l2 == 0.0
    assert error.nonfinite_actual == error.nonfinite_expected == 2
    assert compare(np.array([1.0, np.inf]), np.array([1.0, -np.inf])).relative_l2 == math.inf


@pytest.mark.parametrize(
    "expected",
    [np.zeros((1, 10)), np.full((1, 10), 0.3), np.full((1, 10), np.nan), np.zeros((0,)), np.zeros(1)],
    ids=["zero", "constant", "nan", "empty", "zero scalar"],
)
def test_a_reference_that_says_nothing_is_no_evidence(expected):
    assert not compare(expected.copy(), expected).evidence


def test_ordinary_references_are_evidence():
    assert compare(np.array([0.7]), np.array([0.7])).evidence
    assert compare(np.array([1e-6, 2e-6]), np.array([1e-6, 2e-6])).evidence


def test_an_answer_where_the_reference_is_zero_is_an_infinite_relative_error():
    error = compare(np.array([0.0, 1.0]), np.zeros(2))
    assert error.relative_l2 == math.inf
    assert error.max_rel == math.inf
    assert error.cosine == 0.0


def test_integers_and_booleans_compare_as_numbers():
    assert compare(np.array([1, 2], np.int64), np.array([1, 2], np.int64)).relative_l2 == 0
    assert compare(np.array([True, False]), np.array([True, True])).max_abs == 1.0


def test_worst_takes_the_worst_of_each_number_and_any_evidence():
    good = compare(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    bad = compare(np.array([1.0, 3.0]), np.array([1.0, 2.0]))
    blind = compare(np.zeros(2), np.zeros(2))
    total = worst([good, bad, blind])
    assert total.max_abs == 1.0
    assert total.cosine == bad.cosine
    assert total.evidence
    assert not worst([blind]).evidence
    with pytest.raises(ValueError):
        worst([])


def test_top1_agreement_counts_rows_and_leaves_other_shapes_alone():
    expected = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)
    assert top1_agreement(expected, expected) == 1.0
    assert top1_agreement(expected[:, ::-1], expected) == 0.0
    assert top1_agreement(expected[::-1], expected) == 0.0
    one_wrong = np.array([[0.1, 0.9], [0.2, 0.8]], np.float32)
    assert top1_agreement(one_wrong, expected) == 0.5
    assert top1_agreement(np.zeros((1, 3, 8, 8)), np.zeros((1, 3, 8, 8))) is None
    assert top1_agreement(np.zeros((1, 4)), np.zeros((1, 5))) is None


def test_tied_best_classes_are_both_right():
    expected = np.array([[0.5, 0.5, 0.0]])
    assert top1_agreement(np.array([[0.4, 0.6, 0.0]]), expected) == 1.0
    assert top1_agreement(np.array([[0.0, 0.0, 1.0]]), expected) == 0.0


def test_class_scores_drop_axes_of_one():
    scores = class_scores(np.zeros((2, 10, 1, 1), np.float32))
    assert scores is not None
    assert scores.shape == (2, 10)
    assert class_scores(np.zeros((1, 10), np.int64)) is None
    assert class_scores(np.zeros((10,), np.float32)) is None


@pytest.mark.parametrize("constant", [-1e4, -1e9, 1e30, np.finfo(np.float32).min, np.finfo(np.float32).min / 2, 65504])
def test_a_masks_constant_hides_no_error(constant):
    """Scores of which a mask forbids some: the norm of all of them says nothing about those that are allowed."""
    expected = np.float32([constant, 0.3, -0.2, constant, 0.7])
    wrong = np.float32([constant, -0.3, 0.2, constant, 0.1])
    assert compare(wrong, expected).relative_l2 == pytest.approx(
        compare(wrong[[1, 2, 4]], expected[[1, 2, 4]]).relative_l2
    )
    assert compare(expected.copy(), expected).relative_l2 == 0
    assert compare(np.float32([0, 0.3, -0.2, constant, 0.7]), expected).relative_l2 > 0.5


def test_a_large_answer_stays_part_of_the_answer():
    for large in (-12345.0, 1e4):
        expected = np.float32([large, 30.0, 20.0])
        assert compare(np.float32([large, 30.0, 21.0]), expected).relative_l2 == pytest.approx(1 / abs(large), rel=1e-3)
