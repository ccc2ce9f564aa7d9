"""This machine's temperatures and frequencies, as the harness reports a device's; nothing where /sys shows none."""

from __future__ import annotations

from pathlib import Path

__all__ = ["host_state"]


def host_state(root: Path = Path("/sys")) -> dict[str, object]:
    """``temperatures_celsius`` by zone, ``frequencies_khz`` by core."""
    heat: dict[str, float] = {}
    for zone in sorted((root / "class/thermal").glob("thermal_zone*")):
        value = _number(zone / "temp")
        if value is not None:
            # Thousandths of a degree; some vendors' zones say whole degrees.
            heat[zone.name] = value / 1000 if abs(value) > 1000 else value
    speed = {}
    for core in sorted((root / "devices/system/cpu").glob("cpu[0-9]*")):
        khz = _number(core / "cpufreq/scaling_cur_freq")
        if khz is not None:
            speed[core.name] = round(khz)
    return {"temperatures_celsius": heat, "frequencies_khz": speed}


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
