"""The device without a sandbox: it says so, its file service is confined all the same, and nothing of it stays."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.virtual_lab import Lab, adb_programs, alive, laboratory, tree, wait_for

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(shutil.which("proot") is None, reason="proot is not installed"),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with laboratory(next(iter(adb_programs().values()))) as made:
        done = made.mobilekit(
            "device", "virtual", "start", "--mode", "proot", "--storage", "8M", "--name", "loose", "--cpu", "max"
        )
        assert done.returncode == 0, done.stderr
        assert b"NOT A SANDBOX" in done.stderr
        made.serial = done.stdout.split()[0].decode()
        yield made


def test_commands_run(lab: Lab) -> None:
    done = lab.shell("uname -m; echo err >&2; cat; exit 9", stdin=b"in\n")
    assert (done.stdout, done.stderr, done.returncode) == (b"aarch64\nin\n", b"err\n", 9)
    assert lab.shell("getprop ro.mobilekit.sandbox").stdout == b"none\n"
    assert b"bf16" in lab.shell("cat /proc/cpuinfo").stdout


def test_files_stay_in_the_root(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(100_000))
    lab.adb_run("push", str(tmp_path / "f"), "/data/local/tmp/f", check=True)
    lab.adb_run("pull", "/data/local/tmp/f", str(tmp_path / "g"), check=True)
    assert (tmp_path / "f").read_bytes() == (tmp_path / "g").read_bytes()
    (lab.folder / "secret").write_text("the host's")
    lab.shell(f"ln -s {lab.folder}/secret /data/local/tmp/link", check=True)
    assert lab.adb_run("pull", "/data/local/tmp/link", str(tmp_path / "h")).returncode != 0
    assert lab.adb_run("pull", f"/../../../../..{lab.folder}/secret", str(tmp_path / "h")).returncode != 0
    assert not (tmp_path / "h").exists()


def test_the_storage_limit_holds_for_pushes(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(9_000_000))
    done = lab.adb_run("push", str(tmp_path / "big"), "/data/local/tmp/")
    assert done.returncode != 0
    assert b"No space left on device" in done.stdout + done.stderr


def leftovers(processes: set[int]) -> set[str]:
    """What the proots among these have in /tmp: others may be at work beside this test."""
    return {path.name for pid in processes for path in Path("/tmp").glob(f"proot*-{pid}-*")}


def test_a_client_that_goes_leaves_no_files(lab: Lab) -> None:
    client = lab.spawn("shell", "echo begun; sleep 1000")
    assert client.stdout is not None
    assert client.stdout.readline() == b"begun\n"
    processes = tree(lab.devices()[0]["pid"])
    assert leftovers(processes)
    client.kill()
    client.communicate(timeout=60)
    wait_for(lambda: not leftovers(processes))


def test_killed_it_leaves_no_process(lab: Lab) -> None:
    device = next(each for each in lab.devices() if each["name"] == "loose")
    client = lab.spawn("shell", "(sleep 1000 &) ; echo begun; exec sleep 1001")
    assert client.stdout is not None
    assert client.stdout.readline() == b"begun\n"
    processes = tree(device["pid"])
    assert len(processes) >= 4
    assert leftovers(processes)
    os.kill(device["pid"], signal.SIGKILL)
    wait_for(lambda: not alive(processes))
    client.communicate(timeout=60)
    wait_for(lambda: not leftovers(processes))
    assert lab.devices() == []
