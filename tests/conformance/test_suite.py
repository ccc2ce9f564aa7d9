"""The suite notices what it is for: wrong numbers, crashes, hangs, and goes on after them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conformance.cases import Case, load_cases
from tests.conformance.suite import Runner
from tests.conformance.worker import difference

RTOL, ATOL = 1e-3, 1e-7


@pytest.fixture(scope="module")
def leaky() -> Case:
    return load_cases({"test_leakyrelu"})["test_leakyrelu"]


def test_a_right_emission_passes(leaky: Case) -> None:
    with Runner() as runner:
        assert runner.run(leaky).kind == "pass"


def test_a_wrong_emission_is_wrong(leaky: Case) -> None:
    with Runner("tests.conformance.faults:WrongEmission") as runner:
        outcome = runner.run(leaky)
    assert outcome.kind == "wrong"
    assert "elements differ" in outcome.reason


def test_a_signal_is_a_crash_and_the_next_case_has_a_new_child(leaky: Case) -> None:
    with Runner("tests.conformance.faults:Crashing") as runner:
        for _ in range(2):
            assert runner.run(leaky).kind == "crash"


def test_our_own_exception_is_a_crash(leaky: Case) -> None:
    with Runner("tests.conformance.faults:Raising") as runner:
        outcome = runner.run(leaky)
    assert (outcome.kind, outcome.reason) == ("crash", "KeyError: 'a bug of ours'")


def test_a_case_past_its_time_is_a_hang(leaky: Case) -> None:
    with Runner("tests.conformance.faults:Hanging", time_limit_s=0.5) as runner:
        assert runner.run(leaky).kind == "hang"


def test_difference_takes_what_is_within_the_tolerance() -> None:
    expected = np.array([1.0, -2.0, np.nan, np.inf], np.float32)
    actual = np.array([1.0009, -2.0, np.nan, np.inf], np.float32)
    assert difference(actual, expected, RTOL, ATOL) == ""


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (np.array([1.002], np.float32), np.array([1.0], np.float32)),
        (np.array([np.nan], np.float32), np.array([1.0], np.float32)),
        (np.array([-np.inf], np.float32), np.array([np.inf], np.float32)),
        (np.array([1e-6], np.float32), np.array([0.0], np.float32)),
        (np.array([1.0, 1e-6], np.float32), np.array([1.0, 0.0], np.float32)),
        (np.array([1000001], np.int64), np.array([1000000], np.int64)),
        (np.array([True]), np.array([False])),
        (np.array([[1.0]], np.float32), np.array([1.0], np.float32)),
        (np.array([1], np.int32), np.array([1], np.int64)),
    ],
)
def test_difference_tells_what_is_not(actual: np.ndarray, expected: np.ndarray) -> None:
    assert difference(actual, expected, RTOL, ATOL)
