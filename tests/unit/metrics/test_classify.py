"""From scores to answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mobilekit.errors import UsageError
from mobilekit.metrics.classify import Answer, classify, is_probabilities, probabilities


def test_logits_go_through_softmax() -> None:
    scores = np.array([[1.0, 3.0, 2.0]], dtype=np.float32)
    total = math.exp(1) + math.exp(3) + math.exp(2)
    answers = classify(scores, ["a", "b", "c"])
    assert [(a.label, a.index) for a in answers] == [("b", 1), ("c", 2), ("a", 0)]
    assert [a.probability for a in answers] == pytest.approx([math.exp(x) / total for x in (3, 2, 1)])
    assert not is_probabilities(scores)


def test_probabilities_stay_as_they_are() -> None:
    scores = np.array([0.1, 0.7, 0.2], dtype=np.float32)
    assert is_probabilities(scores)
    assert classify(scores, ["a", "b", "c"], top=1) == [Answer("b", pytest.approx(0.7), 1)]  # type: ignore[arg-type]
    assert not is_probabilities(np.array([-0.5, 1.0, 0.5]))


def test_fp16_probabilities_of_many_classes_are_still_probabilities() -> None:
    logits = np.random.default_rng(0).standard_normal(1000) * 3
    exact = np.exp(logits - logits.max())
    assert is_probabilities((exact / exact.sum()).astype(np.float16))


def test_huge_logits_do_not_overflow() -> None:
    assert probabilities(np.array([1e4, -1e4], dtype=np.float32)).tolist() == [1.0, 0.0]


def test_equal_scores_come_in_the_order_of_their_index() -> None:
    assert [a.index for a in classify(np.zeros((1, 4, 1, 1)), None)] == [0, 1, 2, 3]
    assert classify(np.zeros((1, 4)), None, top=2)[1].label == "class 1"


@pytest.mark.parametrize(
    ("scores", "labels", "match"),
    [
        (np.zeros((1, 4)), ["a"], "1 labels.*4 classes"),
        (np.zeros((2, 4)), None, "2x4"),
        (np.zeros((0,)), None, "no single list"),
        (np.array([1.0, math.nan]), None, "finite"),
        (np.array([1.0, math.inf]), None, "finite"),
    ],
)
def test_scores_that_answer_nothing(scores: np.ndarray, labels: list[str] | None, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        classify(scores, labels)
