"""Each likely cause is named for the fault that makes it, and none for noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mobilekit.validate.causes import likely_causes

RNG = np.random.default_rng(5)
RIGHT = RNG.standard_normal((8, 12, 12)).astype(np.float32)


def _swapped(right: np.ndarray) -> np.ndarray:
    return right[[0, 4, 2, 3, 1, 5, 6, 7]]


def _bordered(right: np.ndarray) -> np.ndarray:
    wrong = right.copy()
    wrong[:, :1] += 0.5
    return wrong


def _one_channel(right: np.ndarray) -> np.ndarray:
    wrong = right.copy()
    wrong[3] *= -0.5
    return wrong


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda right: right + RNG.standard_normal((8, 1, 1)), "bias"),
        (lambda right: right * 1.01, "1.01 times"),
        (lambda right: -right, "sign"),
        (_swapped, "4 where 1 belongs, 1 where 4 belongs"),
        (lambda right: np.roll(right, 1, -1), "moved by one along w"),
        (lambda right: np.roll(right, -1, -2), "moved by one along h"),
        (_bordered, "border is wrong (first rows)"),
        (_one_channel, "only channel 3 of 8"),
        (lambda right: right.swapaxes(-1, -2), "last two axes are swapped"),
        (lambda right: right * 0, "zeros"),
        (lambda right: np.maximum(right, 0), "an activation too much"),
    ],
)
def test_a_fault_is_told_by_how_it_looks(change: Callable[[np.ndarray], np.ndarray], said: str) -> None:
    causes = likely_causes(change(RIGHT).astype(np.float32), RIGHT)
    assert said in causes[0]


def test_a_lost_activation_and_a_bias_behind_one() -> None:
    assert "an activation is missing" in likely_causes(RIGHT, np.maximum(RIGHT, 0), saturates=True)[0]
    biased = np.maximum(RIGHT + RNG.standard_normal((8, 1, 1)).astype(np.float32), 0)
    assert "bias" in likely_causes(biased, np.maximum(RIGHT, 0), saturates=True)[0]


def test_weights_times_a_factor_leave_the_bias_right() -> None:
    bias = RNG.standard_normal((8, 1, 1)).astype(np.float32)
    assert likely_causes(2 * RIGHT + bias, RIGHT + bias) == ("its weights are 2 times the right ones",)


def test_what_half_precision_cannot_hold_is_said() -> None:
    right = RIGHT * 1e5
    over = np.where(np.abs(right) > 65504, np.inf * np.sign(right), right)
    assert likely_causes(over, right, fp16=True)[0].startswith("overflow: right values reach")
    inner = RIGHT.copy()
    inner[0, 0, 0] = np.inf
    assert likely_causes(inner, RIGHT, fp16=True)[0].startswith("overflow inside the layer")


def test_other_shapes_are_said_and_noise_is_no_cause() -> None:
    assert "elements" in likely_causes(RIGHT[:, 1:], RIGHT)[0]
    assert "shape" in likely_causes(RIGHT.reshape(12, 8, 12), RIGHT)[0]
    assert likely_causes(RIGHT + RNG.standard_normal(RIGHT.shape).astype(np.float32), RIGHT) == ()


def test_a_small_error_that_moves_the_least_value_is_no_activation() -> None:
    """As of one GELU for another: all of it lies within a thousandth of the right values, and so do its bounds."""
    wrong = RIGHT * (1 + 5e-4 * RNG.random(RIGHT.shape))
    wrong.reshape(-1)[RIGHT.argmin()] *= 1 - 2e-3
    assert wrong.min() > RIGHT.min()
    assert not any("activation" in cause for cause in likely_causes(wrong, RIGHT))
