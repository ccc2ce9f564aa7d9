from __future__ import annotations

import pytest

from tests.unit.device.fake_adb import FakeAdb


@pytest.fixture
def fake_adb(tmp_path, monkeypatch):
    """A function that starts a :class:`fake_adb.FakeAdb` and makes it the adb server of this test."""
    started: list[FakeAdb] = []

    def start(**options: object) -> FakeAdb:
        server = FakeAdb(tmp_path / f"device-{len(started)}", **options)  # type: ignore[arg-type]
        started.append(server)
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        for name in ("ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_ADDRESS", "ANDROID_ADB_SERVER_HOST", "ANDROID_SERIAL"):
            monkeypatch.delenv(name, raising=False)
        return server

    yield start
    for server in started:
        server.__exit__(None, None, None)
