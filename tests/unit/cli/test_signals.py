"""Signals that come where Python would lose an exception, or the exception something else, end the program all the
same, in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, subprocess, sys, tempfile, time, weakref
from importlib.machinery import ExtensionFileLoader
from mobilekit import interrupts
from mobilekit.cli import main
from mobilekit.errors import DeviceError

def strike():
    os.kill(os.getpid(), {number})
    time.sleep(0)  # here the handler runs

def app(standalone_mode):
{body}

main.make_app = lambda only: app
main.run()
"""

IN_A_FINALISER = """
    class Finalised:
        def __del__(self):
            strike()
            print("finalised")
    Finalised()
    time.sleep(20)
"""
IN_A_WEAK_REFERENCE = """
    class Referred:
        pass
    referred = Referred()
    kept = weakref.ref(referred, lambda _: strike())
    del referred
    print("finalised")
    time.sleep(20)
"""
IN_A_BARE_EXCEPT = """
    try:
        strike()
    except:
        print("finalised")
    time.sleep(20)
"""
TURNED_INTO_AN_ERROR = """
    try:
        strike()
    except BaseException as error:
        print("finalised")
        raise DeviceError("it broke") from error
"""
LONG_CLEANING = """
    try:
        strike()
    finally:
        time.sleep(1)  # longer than it takes until a lost interruption is raised again
        print("finalised")
"""
LONG_FINALISER = """
    def remove():
        strike()
        time.sleep(1)
        print("finalised")
    class Folder:
        pass
    folder = Folder()
    weakref.finalize(folder, remove)
    del folder
    time.sleep(20)
"""
WHILE_HELD = """
    with interrupts.held():
        strike()
        time.sleep(1)
        print("finalised")
    time.sleep(20)
"""
WHILE_A_CHILD_STARTS = """
    start = subprocess.Popen
    def slow(*command, **options):
        process = start(*command, **options)
        strike()
        print("started", process.pid, flush=True)
        return process
    subprocess.Popen = slow
    with interrupts.started([sys.executable, "-c", "import time; time.sleep(60)"]):
        time.sleep(20)
"""
IN_A_NATIVE_MODULE = """
    class Specification:
        origin, asked = "/absent.so", False
        @property
        def name(self):  # which C asks for, as the first lines of a module ask for much else
            if not self.asked:
                self.asked = True
                strike()
                print("finalised")
            return "absent"
    try:
        ExtensionFileLoader("absent", "/absent.so").create_module(Specification())
    except ImportError:
        time.sleep(20)
"""
WHILE_ADB_FORWARDS = """
    from mobilekit.device.harness import launch, protocol
    class Harness:
        def __init__(self, argv):
            self.name = argv[argv.index("--socket") + 1]
        def readline(self, timeout_s):
            return f"mobilekit-harness ready {protocol.VERSION} {self.name}"
        def close(self):
            print("closed")
    class Device:
        serial = "x"
        spawn = staticmethod(Harness)
        def shell(self, *arguments, **options):
            pass
        push = shell
        def forward_abstract(self, name):
            strike()
            print("forwarded")
            return 1
        def remove_forward(self, port):
            print("removed")
    launch.launch_on_device(Device(), "/x/harness", start_timeout_s=5, idle_timeout_s=5)
    time.sleep(20)
"""
BODIES = [
    IN_A_FINALISER,
    IN_A_WEAK_REFERENCE,
    IN_A_BARE_EXCEPT,
    TURNED_INTO_AN_ERROR,
    LONG_CLEANING,
    LONG_FINALISER,
    WHILE_HELD,
    IN_A_NATIVE_MODULE,
]
NAMES = [
    "finaliser",
    "weak-reference",
    "bare-except",
    "error",
    "long-cleaning",
    "long-finaliser",
    "held",
    "native-module",
]


def ended(body: str, number: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{number}", str(int(number))).replace("{body}", body)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("body", BODIES, ids=NAMES)
def test_a_signal_is_not_lost_and_breaks_nothing_off(body: str, number: int, code: int) -> None:
    done = ended(body, number)
    assert done.returncode == code, done.stderr
    assert done.stdout == "finalised\n"
    assert done.stderr == ("interrupted\n" if number == signal.SIGINT else "")


def test_a_child_that_is_just_starting_is_not_left_behind() -> None:
    done = ended(WHILE_A_CHILD_STARTS, signal.SIGTERM)
    assert done.returncode == 143, done.stderr
    assert not Path(f"/proc/{done.stdout.split()[1]}").exists()


def test_a_port_that_adb_has_just_forwarded_is_taken_back() -> None:
    done = ended(WHILE_ADB_FORWARDS, signal.SIGTERM)
    assert done.returncode == 143, done.stderr
    assert done.stdout.split() == ["forwarded", "removed", "closed"]


def test_a_signal_that_the_parent_ignores_is_ignored() -> None:
    def as_nohup_does() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{number}", "1").replace("{body}", "    strike()\n    return 3")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=as_nohup_does,
    )
    assert (done.returncode, done.stderr) == (3, "")
