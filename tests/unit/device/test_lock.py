"""The lock's shell script on this machine's ``sh``, where a test can time what others do."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from mobilekit.device.harness.launch import LocalProcess
from mobilekit.device.lock import device_lock
from mobilekit.errors import DeviceError


class Holder(LocalProcess):
    """As on a device, its children end with it."""

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        super().close()


class Here:
    """As much of a device as the lock needs, with programs of the test's own before the system's, and an input that
    does not end, as adb's does not."""

    serial = "here"

    def __init__(self, programs: Path) -> None:
        self._environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        self._input = programs / "input"
        os.mkfifo(self._input)

    def spawn(self, argv: Sequence[str]) -> Holder:
        return Holder(["/bin/sh", "-c", 'exec "$@" <>"$0"', str(self._input), *argv], self._environment)

    def shell(self, argv: Sequence[str], **_: object) -> None:
        subprocess.run(argv, check=True)


def program(folder: Path, body: str) -> Here:
    folder.mkdir()
    (folder / "mkdir").write_text(f"#!/bin/sh\n{body}\n")
    (folder / "mkdir").chmod(0o755)
    return Here(folder)


def test_a_lock_that_goes_just_after_it_was_found_is_taken(tmp_path: Path) -> None:
    """Its holder leaves between ``mkdir``'s failure and the next look."""
    lock, left = tmp_path / "lock", tmp_path / "left"
    lock.mkdir()
    here = program(
        tmp_path / "bin",
        f'/bin/mkdir "$@"; code=$?; [ "$*" != {lock} ] || [ -e {left} ] || {{ rmdir {lock}; : > {left}; }}; exit $code',
    )
    with device_lock(here, wait_s=0, folder=str(lock)):  # type: ignore[arg-type]
        pass
    assert left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "left"]


def test_where_nothing_can_be_made_that_is_said(tmp_path: Path) -> None:
    here = program(tmp_path / "bin", "exit 1")
    with (
        pytest.raises(DeviceError, match=r"cannot take the lock: .*cannot be made"),
        device_lock(here, wait_s=0, folder=str(tmp_path / "lock")),  # type: ignore[arg-type]
    ):
        pytest.fail("held")


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    # Every write fails, as where no space is left; making files and folders does not.
    (programs / "sh").write_text("#!/bin/sh\ntrap '' XFSZ\nulimit -f 0\nexec /bin/sh \"$@\"\n")
    (programs / "sh").chmod(0o755)
    with (
        pytest.raises(DeviceError, match=r"cannot take the lock: nothing can be written to") as caught,
        device_lock(Here(programs), wait_s=600, folder=str(tmp_path / "lock")),  # type: ignore[arg-type]
    ):
        pytest.fail("held")
    assert "room" in (caught.value.hint or "")
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize("left", ["", "4711"])
def test_what_a_power_cut_left_of_a_lock_is_forgotten(tmp_path: Path, left: str) -> None:
    lock = tmp_path / "lock"
    lock.mkdir()
    (lock / "00ff00ff00ff00ff").write_text(left)
    with device_lock(Here(tmp_path), wait_s=600, folder=str(lock)):  # type: ignore[arg-type]
        assert [path.name for path in lock.iterdir()] != ["00ff00ff00ff00ff"]
    assert not lock.exists()


def test_a_lock_that_cannot_be_removed_is_an_error(tmp_path: Path) -> None:
    """Here ``rm`` removes nothing."""
    lock, programs = tmp_path / "lock", tmp_path / "bin"
    lock.mkdir()
    (lock / "dead").write_text("999999999 - ghost\n")
    programs.mkdir()
    (programs / "rm").write_text("#!/bin/sh\n")
    (programs / "rm").chmod(0o755)
    with (
        pytest.raises(DeviceError, match=r"what a dead holder left in .* cannot be removed"),
        device_lock(Here(programs), wait_s=0, folder=str(lock)),  # type: ignore[arg-type]
    ):
        pytest.fail("held")
