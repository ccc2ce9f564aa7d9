"""Durations, temperatures, the stretches of a sustained run and what is said of them."""

from __future__ import annotations

import pytest

from mobilekit.errors import UsageError
from mobilekit.validate.endurance import (
    Block,
    CoolDown,
    SingleStream,
    parse_cool_down,
    parse_duration,
    stretches,
    sustained_sentence,
)


def test_durations_and_temperatures_are_read() -> None:
    assert [parse_duration(text) for text in ("10m", "90s", "1h", "45", "1.5m")] == [600, 90, 3600, 45, 90]
    assert parse_cool_down("40") == CoolDown(40.0)
    assert parse_cool_down("37.5,5m") == CoolDown(37.5, 300.0)
    for text in ("", "0", "10x", "-3s", "m"):
        with pytest.raises(UsageError):
            parse_duration(text)
    for text in ("", "warm", "40,", "40,soon", "-5"):
        with pytest.raises(UsageError):
            parse_cool_down(text)


def test_less_than_mlperf_asks_for_is_not_compliant() -> None:
    assert SingleStream().compliant
    assert not SingleStream(1023, 60).compliant
    assert not SingleStream(1024, 59.9).compliant


def minute(number: int, ms: float, celsius: float | None = None, khz: float | None = None) -> list[Block]:
    start = 60.0 * number
    return [Block(start + 2 * i, start + 2 * i + 2, [round(ms * 1e6)] * 10, celsius, khz) for i in range(30)]


def test_a_long_run_is_told_by_the_minute_and_a_short_one_by_fifths() -> None:
    blocks = [block for number in range(6) for block in minute(number, 10 + number, 40 + number, 8e6)]
    found = stretches(blocks, 360)
    assert [one.start_s for one in found] == [0, 60, 120, 180, 240, 300]
    assert [one.p50_ms for one in found] == [10, 11, 12, 13, 14, 15]
    assert [one.celsius for one in found] == [40, 41, 42, 43, 44, 45]
    assert {one.inferences for one in found} == {300}
    # What begins when the time is up belongs to the last stretch.
    late = stretches([*blocks, Block(360.5, 362, [10_000_000])], 360)
    assert (len(late), late[-1].inferences) == (6, 301)
    short = [Block(i, i + 1, [1_000_000]) for i in range(10)]
    assert [one.start_s for one in stretches(short, 10)] == [0, 2, 4, 6, 8]
    assert stretches(short, 10)[0].celsius is None


def test_throttling_is_told_by_the_frequencies() -> None:
    def said(last_ms: float, last_khz: float | None, first_khz: float | None = 8e6) -> tuple[bool, str]:
        blocks = [*minute(0, 10, 40, first_khz), *minute(1, 12, 60, last_khz), *minute(2, last_ms, 61, last_khz)]
        return sustained_sentence(stretches([*blocks, *minute(3, last_ms), *minute(4, last_ms)], 300))

    throttled, text = said(15, 6e6)
    assert throttled
    assert "fell by 25% at 60 °C, 60 s in" in text
    assert "+50.0%" in text
    assert said(15, 8e6)[0] is False
    assert "the frequencies did not fall" in said(15, 8e6)[1]
    assert "no frequency shows why" in said(15, None, None)[1]
    assert said(10.2, 8e6)[1].startswith("not throttled")
    assert said(10.2, None, None)[1].startswith("no throttling seen")
