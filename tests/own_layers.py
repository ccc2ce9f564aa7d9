"""Models of mobilekit's own ncnn layers on this machine: one harness for many models, built where there is none."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobilekit.bundle import NcnnArtifact
from mobilekit.device.harness.client import HarnessSession
from mobilekit.device.harness.locate import find_harness
from mobilekit.device.harness.protocol import LoadOptions
from mobilekit.device.harness.toolchains import ABIS
from mobilekit.errors import MobilekitError
from mobilekit.progress import SILENT

__all__ = ["HarnessHost"]

Array = np.ndarray[Any, Any]
_IDLE_S = 3600.0  # a worker of xdist may have other tests to do in between


class HarnessHost:
    """Loads model after model into one process; it is made anew after one that ended it. Without ``program``, this
    machine's harness."""

    def __init__(self, program: Path | None = None, emulator: Sequence[str] = ()) -> None:
        self._program = program
        self._emulator = emulator
        self._session: HarnessSession | None = None

    def run(
        self,
        folder: Path,
        artifact: NcnnArtifact,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        precision: str = "fp32",
    ) -> dict[str, Array]:
        """Outputs by blob name; ``folder`` is the bundle's."""
        param, weights = ((folder / name).absolute() for name in (artifact.param, artifact.bin))
        try:
            session = self._session or self._start()
            session.load(str(param), str(weights), LoadOptions.for_precision(precision, threads=1), timeout_s=60.0)
            return dict(session.infer(inputs, outputs, timeout_s=60.0).outputs)
        except MobilekitError:
            self.close()
            raise

    def _start(self) -> HarnessSession:
        abi = next(abi for abi, machine in ABIS.items() if machine == platform.machine())
        program = self._program or find_harness(abi, SILENT, static_only=True)
        session = HarnessSession.connect_local(program, emulator=self._emulator, idle_timeout_s=_IDLE_S)
        self._session = session.__enter__()
        return self._session

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
