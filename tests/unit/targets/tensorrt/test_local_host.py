"""The worker's process on this machine: it may hang, die or outlive whoever asked, and none of that goes unseen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mobilekit.errors import ChildCrashError, ChildError, ChildTimeoutError
from mobilekit.targets.tensorrt.host import WORKER, LocalHost


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A job that nobody ever finishes writing: the worker waits for it."""
    folder = tmp_path / "job"
    folder.mkdir()
    os.mkfifo(folder / "job.json")
    return folder


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_worker_that_hangs_is_ended(endless: Path) -> None:
    with LocalHost() as here:
        with pytest.raises(ChildTimeoutError, match="did not finish within 1 s") as caught:
            here.perform(endless, what="the plan", timeout_s=1)
        assert "--timeout" in caught.value.hint
        assert here._process is None


def test_a_worker_that_dies_is_told_by_its_signal(endless: Path) -> None:
    with LocalHost() as here:
        process = here._start()
        threading.Timer(0.5, process.send_signal, [signal.SIGSEGV]).start()
        with pytest.raises(ChildCrashError, match="the plan was ended by SIGSEGV"):
            here.perform(endless, what="the plan", timeout_s=60)
        assert gone(process.pid)


def test_leaving_ends_the_worker() -> None:
    with LocalHost() as here:
        pid = here._start().pid
        assert not gone(pid)
    assert gone(pid)


def test_a_worker_ends_with_whoever_asked_even_in_the_middle(endless: Path) -> None:
    process = subprocess.Popen([sys.executable, str(WORKER), "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{endless}\n".encode())
    process.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.stdin.close()
    assert process.wait(30) == 0
    assert process.stdout.read() == b""
    process.stdout.close()


def test_one_after_another(tmp_path: Path) -> None:
    """A job that fails leaves the process as it was."""
    with LocalHost() as here:
        pids = set()
        for number in range(3):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "job.json").write_text("{}")
            with pytest.raises(Exception, match="protocol"):
                here.perform(folder, what="the plan", timeout_s=60)
            assert here._process is not None
            pids.add(here._process.pid)
    assert len(pids) == 1


def test_whoever_waits_learns_that_the_worker_was_ended(endless: Path) -> None:
    """As a build does whose verification has failed meanwhile; a job that comes too late begins no other worker."""
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            here.perform(endless, what="the plan", timeout_s=60)
        except ChildError as error:
            caught.append(error)

    with LocalHost() as here:
        pid = here._start().pid
        waiting = threading.Thread(target=ask)
        waiting.start()
        here.end()
        waiting.join()
        ask()
        assert here._process is None
    assert len(caught) == 2
    assert gone(pid)
