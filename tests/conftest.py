"""What all tests share: every test has a home, a cache and a state folder of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import mobilekit  # noqa: F401 - before ONNX Runtime, whose telemetry it turns off

# The same examples on every machine, and none judged by how long it took: a failure is about the change, not the
# load. `pytest --hypothesis-profile search` looks for new ones.
_UNTIMED = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
settings.register_profile("search", _UNTIMED)
settings.register_profile("mobilekit", _UNTIMED, derandomize=True)
settings.load_profile("mobilekit")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would every program that the tests of Ctrl-C start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, likewise


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """State is private to a test; the cache (sources, harness builds, zoo) is shared unless a test says otherwise."""
    monkeypatch.setenv("MOBILEKIT_STATE", str(tmp_path_factory.mktemp("state")))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)


_STATES: dict[int, Any] = {}


@pytest.fixture(autouse=True)
def _same_numbers(request: pytest.FixtureRequest) -> None:
    """A file's generators begin anew in each test: its numbers do not depend on which tests ran before it."""
    module: ModuleType = request.node.getparent(pytest.Module).obj
    for value in vars(module).values():
        if isinstance(value, np.random.Generator):
            value.bit_generator.state = _STATES.setdefault(id(value), value.bit_generator.state)


@pytest.fixture
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    path = tmp_path / "cache"
    monkeypatch.setenv("MOBILEKIT_CACHE", str(path))
    return path


@pytest.fixture(scope="session")
def is_root() -> bool:
    return os.geteuid() == 0
