from __future__ import annotations

import pytest

from mobilekit.validate.latency import latency_stats


def test_percentiles_mean_and_spread_of_known_numbers():
    stats = latency_stats([n * 1_000_000 for n in range(1, 101)])
    assert stats is not None
    assert stats.iterations == 100
    assert stats.p50_ms == pytest.approx(50.5)
    assert stats.p90_ms == pytest.approx(90.1)
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
