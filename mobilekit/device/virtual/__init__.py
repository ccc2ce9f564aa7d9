"""A device without a phone: an ADB daemon on loopback whose commands run real arm64 programs in a sandbox.

>>> device = start(cpu="cortex-a53")          # doctest: +SKIP
>>> device.serial                             # doctest: +SKIP
'127.0.0.1:41233'
>>> stop(device.name)                         # doctest: +SKIP
"""

from __future__ import annotations

from mobilekit.device.virtual.layout import ABIS, CPU_PROFILES, CpuProfile
from mobilekit.device.virtual.manager import (
    MODES,
    NOT_A_SANDBOX,
    Probe,
    VirtualDevice,
    ensure,
    list_,
    probe,
    start,
    stop,
)

__all__ = [
    "ABIS",
    "CPU_PROFILES",
    "MODES",
    "NOT_A_SANDBOX",
    "CpuProfile",
    "Probe",
    "VirtualDevice",
    "ensure",
    "list_",
    "probe",
    "start",
    "stop",
]
