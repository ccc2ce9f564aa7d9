"""A program that has said all ends without Python's teardown, and loses nothing by that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import atexit, os, sys, threading, time, weakref
from mobilekit import __main__, interrupts
from mobilekit.cli import main

class Kept:
    def __del__(self, write=os.write):
        write(1, b"freed")

kept = Kept()  # until Python tears down

def app(standalone_mode):
    atexit.register(print, "exit handler")
    weakref.finalize(app, print, "finaliser")
    print("answer", end="")
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    print("remark", end="", file=sys.stderr)
    {body}

main.make_app = lambda only: app
__main__.main()
"""


def _run(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"
    program.write_text(PROGRAM.format(body=body))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, program], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("code", [0, 1, 3])
def test_what_a_program_still_has_to_do_is_done_before_it_ends(tmp_path: Path, code: int) -> None:
    done = _run(tmp_path, f"return {code}")
    assert done.returncode == code
    assert done.stdout == "answerthread\nfinaliser\nexit handler\n"  # and not "freed"
    assert done.stderr == "remark"


def test_an_error_has_its_exit_code_and_its_words(tmp_path: Path) -> None:
    done = _run(tmp_path, "from mobilekit.errors import UsageError; raise UsageError('no such thing', hint='another')")
    assert done.returncode == 2
    assert done.stderr == "remarkerror: no such thing\nhint: another\n"
    assert done.stdout == "answerthread\nfinaliser\nexit handler\n"


def test_what_is_no_end_of_ours_is_left_to_python(tmp_path: Path) -> None:
    done = _run(tmp_path, "raise GeneratorExit")
    assert done.returncode == 1
    assert "GeneratorExit" in done.stderr
