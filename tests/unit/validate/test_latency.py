from __future__ import annotations

import numpy as np
import pytest

from mobilekit.validate.latency import is_steady, latency_stats, outliers


def test_percentiles_mean_and_spread_of_known_numbers():
    stats = latency_stats([n * 1_000_000 for n in range(1, 101)])
    assert stats is not None
    assert stats.iterations == 100
    assert stats.p50_ms == pytest.approx(50.5)
    assert stats.p90_ms == pytest.approx(90.1)
    assert stats.p95_ms == pytest.approx(95.05)
    assert stats.p99_ms == pytest.approx(99.01)
    assert stats.mean_ms == pytest.approx(50.5)
    assert (stats.min_ms, stats.max_ms) == (1.0, 100.0)
    assert stats.cv == pytest.approx(29.011 / 50.5, rel=1e-4)
    assert stats.spread == pytest.approx((90.1 - 10.9) / 50.5)


def test_one_iteration_and_none():
    one = latency_stats([2_000_000])
    assert one is not None
    assert (one.p50_ms, one.p99_ms, one.cv, one.spread) == (2.0, 2.0, 0.0, 0.0)
    assert latency_stats([]) is None


def test_the_interval_of_the_median_holds_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = 10e6 * np.log(2)
    found = [latency_stats(rng.exponential(10e6, 40).astype(int).tolist()) for _ in range(60)]
    held = sum(one is not None and one.p50_low_ms * 1e6 <= truth <= one.p50_high_ms * 1e6 for one in found)
    assert held >= 51  # 57 are to be expected; fewer than 51 by chance once in a hundred


def test_outliers_are_counted_and_stay_in():
    stats = latency_stats([10_000_000 + n * 1000 for n in range(50)] + [90_000_000])
    assert stats is not None
    assert stats.outliers == 1
    assert stats.max_ms == 90


def test_a_drift_is_seen():
    stats = latency_stats([10_000_000] * 10 + [11_000_000] * 10 + [13_000_000] * 10)
    assert stats is not None
    assert stats.drift == pytest.approx(0.3)


def test_steady_means_three_blocks_that_agree():
    assert not is_steady([1.0, 1.0])
    assert is_steady([9.0, 1.0, 1.01, 1.02])
    assert not is_steady([1.0, 1.0, 1.0, 1.1])


def test_outliers_are_named_by_where_they_are() -> None:
    assert outliers([10.0, 10.1, 9.9, 10.2, 55.0, 10.0, 9.8]) == [4]
    assert outliers([1.0, 1.0, 1.0]) == []
    assert outliers([]) == []
