"""Signals that come where Python would forget an exception are not lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys, time
from mobilekit.cli import main

def app(standalone_mode):
    class Finalised:
        def __del__(self):
            os.kill(os.getpid(), {number})
            time.sleep(0)  # here the handler runs, and an exception would be printed and forgotten
    Finalised()
    time.sleep(20)

main.make_app = lambda only: app
main.run()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_in_a_finaliser_is_not_forgotten(number: int, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{number}", str(int(number)))],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Exception ignored" not in done.stderr


IN_A_CALLBACK = """
import os, signal, sys, time, weakref
from mobilekit.cli import main

def app(standalone_mode):
    class Referred:
        pass
    def gone(reference):
        os.kill(os.getpid(), {number})
        time.sleep(0)
    referred = Referred()
    kept = weakref.ref(referred, gone)
    del referred
    time.sleep(20)

main.make_app = lambda only: app
main.run()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_weak_references_callback_is_not_forgotten(number: int, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_CALLBACK.replace("{number}", str(int(number)))],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
