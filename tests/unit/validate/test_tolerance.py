"""Verdicts: right results pass, and the mistakes that converters make fail at every precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilekit.errors import UsageError
from mobilekit.metrics.tensors import compare
from mobilekit.validate.tolerance import Judgement, Verdict, explicit, judge, overall, tolerance_for

RNG = np.random.default_rng(0)
REFERENCE = RNG.standard_normal((1, 8, 12, 12)).astype(np.float32)

WRONG = {
    "axes swapped": REFERENCE.transpose(0, 1, 3, 2),
    "shifted by one pixel": np.roll(REFERENCE, 1, axis=3),
    "channels permuted": REFERENCE[:, ::-1],
    "activation missing": np.where(REFERENCE < 0, REFERENCE * 0.8, REFERENCE),
    "scaled by 10 per cent": REFERENCE * np.float32(1.1),
    "offset": REFERENCE + np.float32(0.1),
    "one border row wrong": np.concatenate([REFERENCE[:, :, :11], -REFERENCE[:, :, 11:]], axis=2),
    "zero": np.zeros_like(REFERENCE),
    "NaN in one place": np.where(np.arange(REFERENCE.size).reshape(REFERENCE.shape) == 5, np.nan, REFERENCE).astype(
        np.float32
    ),
    "another shape": REFERENCE.reshape(1, 8, 144),
    "negated": -REFERENCE,
}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_result_fails(precision, mistake):
    result = judge(compare(np.ascontiguousarray(WRONG[mistake]), REFERENCE), tolerance_for(precision))
    assert result.verdict is Verdict.FAIL
    assert result.reason


def test_rounding_passes_at_its_own_precision_only():
    half = REFERENCE.astype(np.float16).astype(np.float32)
    half = (half * np.float32(1 + 2**-9)).astype(np.float32)
    error = compare(half, REFERENCE)
    assert judge(error, tolerance_for("fp16")).verdict is Verdict.PASS
    assert judge(error, tolerance_for("fp32")).verdict is Verdict.FAIL
    exact = (REFERENCE.astype(np.float64) * (1 + 1e-6)).astype(np.float32)
    assert judge(compare(exact, REFERENCE), tolerance_for("fp32")).verdict is Verdict.PASS


@given(st.floats(1e-6, 0.5), st.floats(0, 2), st.integers(0, 1000))
def test_the_verdict_is_that_of_the_relative_error(rtol, share, seed):
    rng = np.random.default_rng(seed)
    expected = rng.standard_normal(64)
    noise = rng.standard_normal(64)
    actual = expected + noise * (share * rtol * np.linalg.norm(expected) / np.linalg.norm(noise))
    verdict = judge(compare(actual, expected), tolerance_for("fp32", rtol=rtol)).verdict
    if share < 0.999:
        assert verdict is Verdict.PASS
    if share > 1.001:
        assert verdict is Verdict.FAIL


def test_no_evidence_is_inconclusive_unless_plainly_wrong():
    zeros = np.zeros((1, 10))
    tolerance = tolerance_for("fp32")
    assert judge(compare(zeros, zeros), tolerance).verdict is Verdict.INCONCLUSIVE
    assert judge(compare(zeros + 1e-7, zeros), tolerance).verdict is Verdict.INCONCLUSIVE
    assert judge(compare(zeros + 1, zeros), tolerance).verdict is Verdict.FAIL
    nan = np.full((1, 10), math.nan)
    assert judge(compare(nan, nan), tolerance).verdict is Verdict.INCONCLUSIVE
    assert judge(compare(zeros, nan), tolerance).verdict is Verdict.INCONCLUSIVE, "there is no answer to compare with"
    assert judge(compare(nan, zeros), tolerance).verdict is Verdict.FAIL
    some = np.where(np.arange(10) < 9, math.nan, 1.0)[None]
    assert judge(compare(zeros + 1, some), tolerance).verdict is Verdict.FAIL


@pytest.mark.parametrize("limits", [{"rtol": 0.15}, {"cosine": 0.99}, {"rtol": 0.15, "cosine": 0.99}])
def test_what_a_constant_would_pass_proves_nothing(limits):
    expected = 10 + RNG.standard_normal((1, 100)).astype(np.float32)
    tolerance = explicit(tolerance_for("fp32"), **limits)
    constant = np.full_like(expected, expected.mean())
    for actual in (expected, constant):
        assert judge(compare(actual, expected), tolerance).verdict is Verdict.INCONCLUSIVE
    assert judge(compare(REFERENCE, REFERENCE), tolerance).verdict is Verdict.PASS


@pytest.mark.parametrize("limits", [{"psnr_db": 8}, {"psnr_db": 8, "rtol": 0.15}, {"psnr_db": 8, "cosine": 0.99}])
def test_a_constant_passes_no_psnr(limits):
    """Against noise its own mean has 10 to 11 dB: a limit below says nothing, one above does."""
    expected = 10 + RNG.random((1, 1000), dtype=np.float32)
    constant = np.full_like(expected, expected.mean())
    error = compare(constant, expected)
    assert error.psnr_db == pytest.approx(error.constant_psnr_db, abs=1e-3)
    assert 10 < error.constant_psnr_db < 12
    low = judge(error, explicit(tolerance_for("fp32"), **limits))
    assert low.verdict is Verdict.INCONCLUSIVE
    assert "a constant would pass" in low.reason
    assert judge(compare(expected, expected), explicit(tolerance_for("fp32"), **limits)).verdict is Verdict.INCONCLUSIVE
    high = explicit(tolerance_for("fp32"), psnr_db=40)
    assert judge(error, high).verdict is Verdict.FAIL
    assert judge(compare(expected, expected), high).verdict is Verdict.PASS


def test_what_the_user_names_is_not_widened_by_the_references_doubt():
    error = compare((REFERENCE * np.float32(1.01)).astype(np.float32), REFERENCE)
    assert judge(error, tolerance_for("fp32"), 0.02).verdict is Verdict.PASS
    named = judge(error, explicit(tolerance_for("fp32"), rtol=1e-3), 0.02)
    assert named.verdict is Verdict.FAIL
    assert "itself is off by 0.02" in named.reason
    assert judge(error, explicit(tolerance_for("fp32"), rtol=2e-2), 0.02).verdict is Verdict.PASS


def test_overall_takes_any_failure_and_needs_some_evidence():
    good, bad, blind = (Judgement(v, "") for v in (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE))
    assert overall([good, bad, blind]) is Verdict.FAIL
    assert overall([good, blind]) is Verdict.PASS
    assert overall([blind, blind]) is Verdict.INCONCLUSIVE
    assert overall([]) is Verdict.INCONCLUSIVE
    assert [v.exit_code for v in (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE)] == [0, 1, 3]


@pytest.mark.parametrize(
    "options", [{"rtol": 1.0}, {"rtol": 0.0}, {"rtol": math.nan}, {"atol": -1.0}, {"atol": math.inf}]
)
def test_a_tolerance_that_judges_nothing_is_refused(options):
    with pytest.raises(UsageError):
        tolerance_for("fp32", **options)
    with pytest.raises(UsageError):
        tolerance_for("int3")
