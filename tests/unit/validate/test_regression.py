"""Better, worse, same or inconclusive: how often the answer is right on measurements whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilekit.errors import UsageError
from mobilekit.validate.regression import Answer, Difference, difference, t_quantile


def measured(seed: int, change: float, *, noise: float, between: float, sessions: int = 13) -> Difference:
    """``change``: B over A less one; ``noise`` of a round and ``between`` sessions, standard deviations of the log."""
    rng = np.random.default_rng(seed)
    loads = rng.normal(math.log1p(change), between, (sessions, 1))
    return difference((loads + rng.normal(0, noise, (sessions, 4))).tolist(), looks=4)


def answers(change: float, *, noise: float = 0.03, between: float = 0.01, tries: int = 300) -> list[Answer]:
    return [measured(seed, change, noise=noise, between=between).answer for seed in range(tries)]


def test_a_model_against_itself_is_hardly_ever_better_or_worse() -> None:
    found = answers(0.0, tries=1000)
    assert sum(answer in (Answer.BETTER, Answer.WORSE) for answer in found) <= 5


def test_nor_where_loads_differ_more_than_rounds_do() -> None:
    """What an interval over all rounds, as if they were independent, would get wrong."""
    found = answers(0.0, noise=0.002, between=0.02, tries=1000)
    assert sum(answer in (Answer.BETTER, Answer.WORSE) for answer in found) <= 5


def test_ten_percent_slower_is_seen() -> None:
    found = answers(0.10)
    assert found.count(Answer.WORSE) >= 0.99 * len(found)
    assert Answer.SAME not in found
    assert Answer.BETTER not in found


def test_five_percent_slower_is_never_called_the_same() -> None:
    for noise in (0.005, 0.03, 0.1):
        assert not {Answer.SAME, Answer.BETTER} & set(answers(0.05, noise=noise))


def test_faster_is_better() -> None:
    assert answers(-0.2, tries=50) == [Answer.BETTER] * 50


def test_quiet_measurements_of_no_change_are_the_same() -> None:
    found = answers(0.0, noise=0.005, between=0.003)
    assert found.count(Answer.SAME) >= 0.99 * len(found)


def test_the_interval_holds_the_truth() -> None:
    found = [measured(seed, 0.07, noise=0.05, between=0.02) for seed in range(1000)]
    assert sum(not one.low <= 1.07 <= one.high for one in found) <= 5


def test_the_same_goes_by_the_narrower_interval() -> None:
    """Two one-sided tests at 0.5% each; what is worse or better stays a matter of the wider one."""
    found = [measured(seed, 0.0, noise=0.02, between=0.005) for seed in range(300)]
    for one in found:
        assert one.low < one.same_low <= one.ratio <= one.same_high < one.high
        assert (one.answer is Answer.SAME) == (one.same_low > 1 / 1.03 and one.same_high < 1.03)
    gained = [one for one in found if one.answer is Answer.SAME and not (one.low > 1 / 1.03 and one.high < 1.03)]
    assert gained


def test_a_change_of_the_margin_is_hardly_ever_called_the_same() -> None:
    found = [measured(seed, 0.03, noise=0.004, between=0.002, sessions=6).answer for seed in range(2000)]
    assert found.count(Answer.SAME) <= 20
    assert found.count(Answer.BETTER) == 0


def test_one_disturbed_round_in_four_has_no_say() -> None:
    found = difference([[0.1, 0.1, 0.1, 5.0], [0.1, 0.1, -4.0, 0.1]] * 3)
    assert (found.answer, found.ratio) == (Answer.WORSE, pytest.approx(math.exp(0.1)))


def test_noise_gives_no_answer_and_says_what_it_could_have_seen() -> None:
    found = measured(0, 0.0, noise=0.5, between=0.3)
    assert found.answer is Answer.INCONCLUSIVE
    assert found.detectable > 0.1


def test_a_change_of_less_than_a_percent_is_none() -> None:
    """However sure it is: two loads of one model differ by as much."""
    found = difference([[0.005]] * 20)
    assert found.answer is Answer.SAME


@given(st.lists(st.lists(st.floats(-2, 2), min_size=1, max_size=5), min_size=4, max_size=20))
def test_swapping_the_sides_swaps_the_answer(sessions: list[list[float]]) -> None:
    there, back = difference(sessions), difference([[-value for value in rounds] for rounds in sessions])
    turned = {Answer.BETTER: Answer.WORSE, Answer.WORSE: Answer.BETTER}
    assert back.ratio == pytest.approx(1 / there.ratio)
    assert back.low == pytest.approx(1 / there.high)
    # Just at the smallest effect, +1% and -1% are not each other's inverse.
    if abs(abs(there.ratio - 1) - 0.01) > 2e-4:
        assert back.answer is turned.get(there.answer, there.answer)


@pytest.mark.parametrize(
    ("probability", "degrees", "value"), [(0.975, 1, 12.7062), (0.975, 5, 2.5706), (0.9995, 30, 3.6460)]
)
def test_quantiles_of_students_t(probability: float, degrees: int, value: float) -> None:
    """Values of the usual printed tables."""
    assert t_quantile(probability, degrees) == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize(
    ("sessions", "options"),
    [
        ([[0.0]] * 3, {}),
        ([[0.0], [0.0], [0.0], []], {}),
        ([[math.inf]] * 5, {}),
        ([[0.0]] * 5, {"margin": 0.0}),
        ([[0.0]] * 5, {"confidence": 1.0}),
    ],
)
def test_what_decides_nothing_is_refused(sessions: list[list[float]], options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        difference(sessions, **options)
