"""What tests of real programs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mobilekit.device.harness.client import HarnessSession
from tests.e2e.own_layer_lab import HOST_ABI, Lab, harness_for


@pytest.fixture(scope="session", params=[HOST_ABI, *({"x86_64", "arm64-v8a"} - {HOST_ABI})])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The harness of this machine, and as arm64 under qemu."""
    program, emulator = harness_for(request.param)
    with HarnessSession.connect_local(program, emulator=emulator) as session:
        yield Lab(session, tmp_path_factory.mktemp("model"))
