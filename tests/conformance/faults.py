"""Workers that go wrong on purpose: the suite has to notice each."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from typing import Any

from mobilekit.targets.ncnn import ops
from mobilekit.targets.ncnn.emit import Emission
from mobilekit.targets.ncnn.node import NodeView
from mobilekit.targets.ncnn.registry import REGISTRY
from tests.conformance.worker import Worker

__all__ = ["Crashing", "Hanging", "Raising", "WrongEmission"]


class WrongEmission(Worker):
    """Its target takes LeakyRelu for Relu: loads, runs, and is right for half of all numbers."""

    def __init__(self) -> None:
        assert ops
        versions = REGISTRY._entries["", "LeakyRelu"]
        versions.update({since: dataclasses.replace(entry, emit=_no_slope) for since, entry in versions.items()})


def _no_slope(node: NodeView, out: Emission) -> None:
    node.ignore("alpha")
    out.unary("ReLU", node)


class Crashing(Worker):
    def run(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        os.kill(os.getpid(), signal.SIGSEGV)
        return super().run(*args, **kwargs)


class Hanging(Worker):
    def run(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        time.sleep(60)
        return super().run(*args, **kwargs)


class Raising(Worker):
    def _run(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        raise KeyError("a bug of ours")
