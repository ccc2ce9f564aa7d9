"""AdbDevice over a fake adb server: what it does, and that whatever the wire does comes out as one of our errors."""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from mobilekit.device.adb import AdbDevice, connect, list_devices, select
from mobilekit.errors import (
    AdbError,
    AmbiguousDeviceError,
    DeviceError,
    DeviceLostError,
    DeviceStorageError,
    HarnessCrashError,
    HarnessError,
    HarnessTimeoutError,
    MissingToolError,
    NoDeviceError,
    StorageError,
    UsageError,
)
from tests.ports import free_port

REMOTE = "/data/local/tmp/mobilekit/file"


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _eventually(check, seconds=60.0):
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until
        time.sleep(0.02)


# --- choosing a device ---


def test_the_only_usable_device_is_chosen(fake_adb):
    fake_adb(devices={"a": "offline", "b": "device"})
    assert select().serial == "b"
    assert select("b").serial == "b"


def test_android_serial_is_honoured(fake_adb, monkeypatch):
    fake_adb(devices={"a": "device", "b": "device"})
    monkeypatch.setenv("ANDROID_SERIAL", "b")
    assert select().serial == "b"


def test_no_device_says_how_to_get_one(fake_adb):
    fake_adb(devices={})
    with pytest.raises(NoDeviceError, match="no device is connected") as caught:
        select()
    assert "mobilekit device virtual start" in caught.value.hint
    assert caught.value.exit_code == 4


def test_two_devices_and_none_named_are_listed(fake_adb):
    fake_adb(devices={"a": "device", "b": "device"})
    with pytest.raises(AmbiguousDeviceError, match=r"a \(Fake\), b \(Fake\)") as caught:
        select()
    assert "--device SERIAL" in caught.value.hint


def test_an_unknown_serial_is_refused(fake_adb):
    fake_adb()
    with pytest.raises(NoDeviceError, match=r"'nope'; adb lists fake-1 \(device\)"):
        select("nope")


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        ("unauthorized", "Allow USB debugging"),
        ("offline", "adb disconnect"),
        ("no permissions (missing udev rules? user is in the plugdev group); see [http://x]", "udev"),
        ("recovery", "reboot"),
    ],
)
def test_an_unusable_device_says_why_and_what_to_do(fake_adb, state, hint):
    fake_adb(devices={"a": state})
    (listed,) = list_devices()
    assert listed.state == state
    with pytest.raises(NoDeviceError) as caught:
        select("a")
    assert hint in caught.value.hint
    with pytest.raises(NoDeviceError) as caught:
        select()
    assert hint in caught.value.hint


def test_a_virtual_device_that_refuses_the_adb_server_names_the_cause(fake_adb):
    fake_adb(devices={"127.0.0.1:5600": "unauthorized"})
    with pytest.raises(NoDeviceError) as caught:
        select("127.0.0.1:5600")
    assert "another user's" in caught.value.hint
    assert "ANDROID_ADB_SERVER_PORT" in caught.value.hint
    assert "adb kill-server" in caught.value.hint


def test_connecting_to_nothing_is_no_device(fake_adb):
    fake_adb(devices={"127.0.0.1:5600": "device"})
    connect("127.0.0.1:5600")
    with pytest.raises(NoDeviceError, match="Connection refused"):
        select("127.0.0.1:5601")


def test_no_adb_server_and_no_adb_is_a_missing_tool(monkeypatch, tmp_path):
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    monkeypatch.setenv("ADB", str(tmp_path / "no-adb"))
    with pytest.raises(MissingToolError, match="start-server"):
        list_devices()


def test_a_server_that_another_command_starts_at_that_moment_is_used(fake_adb, monkeypatch, tmp_path):
    """adb's own start then fails: the port is taken."""
    asked, up, adb = (tmp_path / name for name in ("asked", "up", "adb"))
    adb.write_text(f"#!/bin/sh\n: > {asked}\nwhile [ ! -e {up} ]; do sleep 0.02; done\nexit 1\n")
    adb.chmod(0o755)
    port = free_port()
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    monkeypatch.setenv("ADB", str(adb))

    def other():
        _eventually(asked.exists, 60)
        fake_adb(port=port)
        up.touch()

    thread = threading.Thread(target=other)
    thread.start()
    assert [device.serial for device in list_devices()] == ["fake-1"]
    thread.join()


@pytest.mark.parametrize("value", ["localabstract:x", "tcp:", "tcp:h:99999", "5037"])
def test_a_strange_server_socket_is_a_usage_error(monkeypatch, value):
    monkeypatch.setenv("ADB_SERVER_SOCKET", value)
    with pytest.raises(UsageError):
        list_devices()


def test_adb_server_socket_wins(fake_adb, monkeypatch):
    server = fake_adb()
    monkeypatch.setenv("ADB_SERVER_SOCKET", f"tcp:127.0.0.1:{server.port}")
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")
    assert select().serial == "fake-1"


# --- shell ---


@pytest.fixture
def device(fake_adb):
    return AdbDevice((fake_adb()).devices and "fake-1")


def test_shell_keeps_streams_codes_and_arguments_apart(device):
    result = device.shell(["sh", "-c", 'printf "%s|" "$@"; echo err >&2; exit 7', "sh", "a b", "$HOME", "it's", "\n"])
    assert result.stdout == b"a b|$HOME|it's|\n|"
    assert result.stderr == b"err\n"
    assert result.returncode == 7


def test_shell_is_binary_safe_both_ways(device):
    data = bytes(range(256)) * 2000
    assert device.shell(["cat"], stdin=data).stdout == data


def test_shell_says_128_plus_the_signal(device):
    assert device.script("kill -SEGV $$").returncode == 128 + 11


def test_a_program_that_does_not_end_is_killed(fake_adb):
    server = fake_adb()
    with pytest.raises(AdbError, match=r"did not end within 0\.5 s"):
        AdbDevice("fake-1").shell(["sleep", "1000"], timeout_s=0.5)
    _eventually(lambda: not server.running())


def test_a_program_that_talks_for_ever_is_killed_too(fake_adb):
    server = fake_adb()
    with pytest.raises(AdbError, match=r"did not end within 0\.5 s"):
        AdbDevice("fake-1").script("while :; do echo x; sleep 0.01; done", timeout_s=0.5)
    _eventually(lambda: not server.running())


def test_a_missing_program_is_a_result_not_an_error(device):
    assert device.shell(["/no/such/program"]).returncode in (126, 127)


# --- spawn ---


def test_spawn_reads_lines_and_close_ends_the_program_and_its_children(fake_adb):
    server = fake_adb()
    process = AdbDevice("fake-1").spawn(["sh", "-c", "echo one; echo two; sleep 1000 & echo $!; wait"])
    assert [process.readline(60), process.readline(60)] == ["one", "two"]
    child = int(process.readline(60))
    assert process.poll() is None
    with pytest.raises(HarnessTimeoutError):
        process.readline(0.1)
    process.close()
    process.close()
    _eventually(lambda: not server.running())
    _eventually(lambda: _gone(child))


def test_spawn_tells_how_a_program_ended(device):
    process = device.spawn(["sh", "-c", "echo last words >&2; kill -SEGV $$"])
    with pytest.raises(HarnessCrashError, match="SIGSEGV") as caught:
        process.readline(60)
    assert caught.value.hint == "last words"
    assert process.poll() == 139
    process.close()
    process = device.spawn(["sh", "-c", "printf rest; exit 3"])
    assert process.readline(60) == "rest"
    with pytest.raises(HarnessError, match="exit code 3"):
        process.readline(60)
    process.close()


def test_spawn_keeps_the_tail_of_a_long_stderr(device):
    process = device.spawn(["sh", "-c", "i=0; while [ $i -lt 5000 ]; do echo line $i >&2; i=$((i+1)); done; echo end"])
    assert process.readline(120) == "end"
    _eventually(lambda: process.stderr_tail().endswith("line 4999\n"))
    assert len(process.stderr_tail()) < 20000
    process.close()


def test_a_device_lost_under_a_running_program(fake_adb):
    server = fake_adb()
    process = AdbDevice("fake-1").spawn(["sh", "-c", "echo up; sleep 1000"])
    assert process.readline(60) == "up"
    server.devices.clear()
    for connection in list(server._open):
        connection.shutdown(2)
    with pytest.raises(DeviceLostError):
        process.readline(60)
    with pytest.raises(DeviceLostError):
        process.poll()
    process.close()


# --- push, pull, forward ---


def test_push_and_pull_round_trip_with_mode(fake_adb, tmp_path):
    server = fake_adb()
    device = AdbDevice("fake-1")
    local = tmp_path / "local"
    local.write_bytes(os.urandom(300_000))
    device.push(local, REMOTE, mode=0o755)
    there = server.host_path(REMOTE)
    assert there.read_bytes() == local.read_bytes()
    assert there.stat().st_mode & 0o777 == 0o755
    device.pull(REMOTE, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == local.read_bytes()
    assert [p.name for p in there.parent.iterdir()] == ["file"]


def test_an_empty_file_is_pushed_too(fake_adb, tmp_path):
    server = fake_adb()
    (tmp_path / "empty").touch()
    AdbDevice("fake-1").push(tmp_path / "empty", REMOTE)
    assert server.host_path(REMOTE).read_bytes() == b""


def test_a_full_device_leaves_nothing(fake_adb, tmp_path):
    server = fake_adb(fault=lambda service, done: "write failed: No space left on device" if done >= 131072 else None)
    local = tmp_path / "local"
    local.write_bytes(bytes(8_000_000))
    with pytest.raises(DeviceStorageError, match="no space left") as caught:
        AdbDevice("fake-1").push(local, REMOTE)
    assert "device clean" in caught.value.hint
    assert list(server.host_path(REMOTE).parent.iterdir()) == []


def test_a_device_gone_in_the_middle_of_a_push_leaves_nothing(fake_adb, tmp_path):
    def fault(service, done):
        if done >= 131072:
            server.devices.clear()
            return "close"
        return None

    server = fake_adb(fault=fault)
    local = tmp_path / "local"
    local.write_bytes(bytes(8_000_000))
    with pytest.raises(DeviceLostError, match="push local"):
        AdbDevice("fake-1").push(local, REMOTE)
    _eventually(lambda: list(server.host_path(REMOTE).parent.iterdir()) == [])


def test_pushing_a_file_that_is_not_there_is_a_usage_error(device, tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        device.push(tmp_path / "none", REMOTE)


def test_pulling_a_file_that_is_not_there_leaves_nothing(device, tmp_path):
    with pytest.raises(AdbError, match="No such file"):
        device.pull("/data/local/tmp/none", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_pulling_into_a_place_that_may_not_be_written(device, tmp_path):
    (tmp_path / "file").touch()
    device.push(tmp_path / "file", REMOTE)
    with pytest.raises((StorageError, OSError)):
        device.pull(REMOTE, tmp_path / "file" / "back")


def test_forward_gives_the_port_and_can_be_undone_twice(fake_adb):
    server = fake_adb()
    device = AdbDevice("fake-1")
    port = device.forward_abstract("mobilekit-x")
    assert server.forwards == {port: "localabstract:mobilekit-x"}
    device.remove_forward(port)
    device.remove_forward(port)
    assert server.forwards == {}


# --- totality ---


def _spawn(device):
    with closing(device.spawn(["true"])) as process:
        process.readline(2)


ACTIONS = {
    "shell": lambda device, path: device.shell(["true"], timeout_s=2),
    "stdin": lambda device, path: device.shell(["true"], timeout_s=2, stdin=bytes(1_000_000)),
    "spawn": lambda device, path: _spawn(device),
    "push": lambda device, path: device.push(path, REMOTE),
    "pull": lambda device, path: device.pull("/data/local/tmp/big", path.parent / "back"),
    "forward": lambda device, path: device.forward_abstract("x"),
    "unforward": lambda device, path: device.remove_forward(1),
    "info": lambda device, path: device.info(),
    "list": lambda device, path: list_devices(),
    "connect": lambda device, path: connect("127.0.0.1:1", timeout_s=1),
    "select": lambda device, path: select(),
}
POINTS = (
    "host:version",
    "host:devices-l",
    "host:transport",
    "host-serial",
    "host:connect",
    "shell",
    "sync:",
    "push",
    "pull",
)


FAULTS = ("close", "garbage", "truncate", "closed", "device offline", "strange")


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("action", ACTIONS)
def test_whatever_the_wire_does_only_device_errors_come_out(fake_adb, tmp_path, action, point):
    server = fake_adb()
    server.host_path("/data/local/tmp/big").write_bytes(bytes(200_000))
    local = tmp_path / "local"
    local.write_bytes(bytes(200_000))
    for fault in FAULTS:
        server.fault = lambda service, done, fault=fault: fault if service.startswith(point) else None
        with suppress(DeviceError):
            ACTIONS[action](AdbDevice("fake-1"), local)
