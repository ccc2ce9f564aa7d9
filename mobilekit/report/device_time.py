"""How long a device was held, and how much of that it computed."""

from __future__ import annotations

from mobilekit.report.base import Frozen

__all__ = ["DeviceTimeReport"]


class DeviceTimeReport(Frozen):
    """By the device's clock: ``wall_ms`` from the arrival of the first input to the last answer, of which
    ``inference_ms`` were spent in inference, warm-up included."""

    wall_ms: float
    inference_ms: float
