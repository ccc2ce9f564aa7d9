"""What is too small to show in the error of the whole has an error, and a limit, of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mobilekit.metrics.faint import faint_part
from mobilekit.metrics.tensors import compare
from mobilekit.validate.rounding import Cost, NumberFormat
from mobilekit.validate.tolerance import Verdict, derived, judge

RNG = np.random.default_rng(0)
BOXES = RNG.uniform(0, 320, (1, 4, 500)).astype(np.float32)
SCORES = (RNG.uniform(0, 1, (1, 20, 500)) ** 4 * np.logspace(0, -5, 20)[:, None]).astype(np.float32)
OUTPUT = np.concatenate([BOXES, SCORES], axis=1)
FORMATS = [NumberFormat(), NumberFormat("fp16"), NumberFormat("fp16", "fp16"), NumberFormat("fp32", "bf16")]


def verdict(actual, expected, form, faint_cost=1e-3):
    return judge(compare(actual, expected), derived(form, Cost(1e-2, 1.0, faint_cost)))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("axis", [1, 2])
def test_lost_scores_beside_boxes_are_a_fail(form, axis):
    lost = OUTPUT.copy()
    lost[:, 4:] = 0
    found = verdict(np.swapaxes(lost, 1, axis), np.swapaxes(OUTPUT, 1, axis), form)
    assert found.verdict is Verdict.FAIL
    assert f"20 of 24 along axis {axis}" in found.reason
    assert compare(lost, OUTPUT).relative_l2 < 1e-2


@pytest.mark.parametrize("kept", [0.9, 1.1, 0.5])
def test_a_tenth_of_them_lost_is_a_fail_in_fp32(kept):
    less = OUTPUT.copy()
    less[:, 4:] *= kept
    found = verdict(less, OUTPUT, NumberFormat())
    assert found.verdict is Verdict.FAIL
    assert found.faint


def test_where_rows_are_picked_a_tie_is_no_fail_and_a_loss_is():
    limits = replace(derived(NumberFormat(), Cost(1e-2, 1.0, 1e-6)), picks=True)
    for kept, found in ((0.8, Verdict.PASS), (0.0, Verdict.FAIL)):
        less = OUTPUT.copy()
        less[:, 4:] *= kept
        assert judge(compare(less, OUTPUT), limits).verdict is found


def test_what_rounding_costs_them_widens_their_limit():
    less = OUTPUT.copy()
    less[:, 4:] *= 0.9
    assert verdict(less, OUTPUT, NumberFormat(), faint_cost=1e-2).verdict is Verdict.PASS


@pytest.mark.parametrize("form", FORMATS)
def test_a_rounding_of_them_is_none(form):
    rounded = OUTPUT.astype(np.float16).astype(np.float32)
    assert verdict(rounded, OUTPUT, form).verdict is Verdict.PASS


def test_what_the_format_leaves_nothing_of_is_not_judged():
    lost = OUTPUT.copy()
    lost[:, 4:] = 0
    assert verdict(lost, OUTPUT, NumberFormat("fp16", "fp16"), faint_cost=0.4).verdict is Verdict.PASS
    assert verdict(lost, OUTPUT, NumberFormat("int8")).verdict is Verdict.PASS


def test_the_uppermost_gap_parts():
    """A class that is never seen is far smaller than the others: the scores stay one part."""
    part = faint_part(OUTPUT, OUTPUT)
    assert part is not None
    assert (part.axis, part.slices, part.of, part.relative_l2) == (1, 20, 24, 0.0)


@pytest.mark.parametrize(
    "plain",
    [
        RNG.standard_normal((1, 64, 9)),
        np.ones((1, 8, 8)) * np.logspace(0, -9, 8),  # step by step
        np.concatenate(
            [RNG.standard_normal((1, 2, 124)), 1e-3 * RNG.standard_normal((1, 2, 4))], axis=2
        ),  # an LSTM's state
        np.zeros((1, 4, 4)),
        np.concatenate([np.ones((1, 3, 5)), np.zeros((1, 3, 5))], axis=1),
        np.full((1, 3, 4), np.nan),
        RNG.standard_normal(50),
        np.zeros((1, 0, 4)),
    ],
)
def test_tensors_of_one_size_have_none(plain):
    array = plain.astype(np.float32)
    assert faint_part(array, array) is None


def test_other_axes_and_what_is_not_finite():
    wide = np.concatenate([1e4 * RNG.standard_normal((2, 5, 3)), RNG.standard_normal((2, 5, 2))], axis=2)
    wide[0, 0, 0] = np.nan
    wide[1, 2, 4] = np.inf
    off = wide.copy()
    off[..., 3] *= 1.5
    part = faint_part(off.astype(np.float32), wide.astype(np.float32))
    assert part is not None
    assert (part.axis, part.slices, part.of) == (2, 2, 5)
    assert part.relative_l2 == pytest.approx(
        0.5 * np.linalg.norm(wide[..., 3]) / np.linalg.norm(wide[..., 3:][np.isfinite(wide[..., 3:])]), rel=1e-5
    )
