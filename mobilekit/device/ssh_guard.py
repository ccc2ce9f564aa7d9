"""A room on the other machine: a folder, and a program that works in it, that last as long as the connection.

    python3 ssh_guard.py FOLDER

It is copied to the other machine and run there, so it needs the standard library of Python 3.8 alone. It makes a room
below FOLDER and says ``{"room": PATH}``. Then it answers requests, a JSON object on a line each:

``{"run": ARGV, "timeout_s": N}``
    runs a command to its end: ``{"returncode": N, "stdout": TEXT}``; ``returncode`` is null where time ran out.
``{"job": NAME, "files": {NAME: PATH}, "server": ARGV, "fresh": BOOL, "timeout_s": N}``
    makes the folder NAME in the room (that of the job before goes), links the files into it under their names, writes
    its path as a line to the standard input of the server (started where none runs, or a ``fresh`` one is asked for)
    and waits for a line: ``{"files": {NAME: SIZE}}``, those that are new in the folder, or ``{"returncode": N}`` (null:
    time ran out) where the server ended.

What programs print as errors comes as it is, on a stream of its own, and so may come later than the answer. An answer
with a ``returncode`` therefore says ``"said": N``, and the line ``SAID N`` among the errors ends what was printed until
then. When its input ends, for whatever reason, the program is killed with all
that it started, and the room is removed.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

SAID = "mobilekit-guard said "
_STDOUT_BYTES = 1 << 20
_STALE_S = 24 * 3600
_PREFIX = "room-"


class _Guard:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for left in folder.glob(f"{_PREFIX}*"):  # by a machine that was switched off
            if time.time() - left.stat().st_mtime > _STALE_S:
                shutil.rmtree(left, ignore_errors=True)
        self._room = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._job: Path | None = None
        self._ended = False
        self._said = 0

    def serve(self) -> None:
        requests: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, args=(requests,), daemon=True).start()
        self._say({"room": str(self._room)})
        while True:
            request = requests.get()
            try:
                self._say(self._told(self._answer(request)))
            except OSError as error:
                self._say({"error": str(error)})

    def _listen(self, requests: queue.Queue[dict[str, Any]]) -> None:
        try:
            for line in sys.stdin.buffer:
                requests.put(json.loads(line.decode("utf-8")))
        finally:
            self.end()

    def _say(self, value: dict[str, Any]) -> None:
        try:
            sys.stdout.write(json.dumps(value) + "\n")
            sys.stdout.flush()
        except OSError:  # nobody listens
            self.end()

    def _told(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer, once the end of what was printed as errors is marked: whoever printed it has ended."""
        if "returncode" not in answer:
            return answer
        self._said += 1
        sys.stderr.write(f"\n{SAID}{self._said}\n")
        sys.stderr.flush()
        return {**answer, "said": self._said}

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "run" in request:
            return self._run(request["run"], request["timeout_s"])
        if self._job is not None:
            shutil.rmtree(self._job, ignore_errors=True)
        self._job = folder = self._room / request["job"]
        folder.mkdir()
        for name, path in request["files"].items():
            (folder / name).symlink_to(self._hold(Path(path)))
        return self._serve(folder, request)

    def _hold(self, path: Path) -> Path:
        """``path`` in the room, at one place for all jobs: another client may remove it from the store."""
        held = self._room / "held" / path.name
        if not held.exists():
            held.parent.mkdir(exist_ok=True)
            try:
                os.link(str(path), str(held))
            except OSError:
                shutil.copyfile(str(path), str(held))
        return held

    def _run(self, argv: list[str], timeout_s: float) -> dict[str, Any]:
        with tempfile.TemporaryFile(dir=str(self._room)) as out:
            child = self._start(argv, stdin=subprocess.DEVNULL, stdout=out)
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout_s)
            code = child.returncode
            self._stop()
            size = out.seek(0, os.SEEK_END)
            out.seek(max(0, size - _STDOUT_BYTES))
            return {"returncode": code, "stdout": out.read().decode("utf-8", "replace")}

    def _serve(self, folder: Path, request: dict[str, Any]) -> dict[str, Any]:
        child = self._child
        if child is None or request["fresh"]:
            self._stop()
            child = self._start(request["server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._lines = queue.Queue()
            threading.Thread(target=self._hear, args=(child, self._lines), daemon=True).start()
        assert child.stdin is not None
        with suppress(BrokenPipeError):
            child.stdin.write(f"{folder}\n".encode())
            child.stdin.flush()
        try:
            line = self._lines.get(timeout=request["timeout_s"])
        except queue.Empty:
            self._stop()
            return {"returncode": None}
        if not line:
            code = child.wait()
            self._stop()
            return {"returncode": code}
        return {"files": {path.name: path.stat().st_size for path in folder.iterdir() if not path.is_symlink()}}

    @staticmethod
    def _hear(child: subprocess.Popen[bytes], lines: queue.Queue[bytes]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            lines.put(line)
        lines.put(b"")

    def _start(self, argv: list[str], *, stdin: int, stdout: Any) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._ended:
                raise OSError("the connection is gone")
            self._child = subprocess.Popen(
                argv, cwd=str(self._room), stdin=stdin, stdout=stdout, start_new_session=True
            )
            return self._child

    def _stop(self) -> None:
        with self._lock:
            self._kill()
            self._child = None

    def _kill(self) -> None:
        """The command and what it left running: they are one process group."""
        if self._child is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()

    def end(self) -> None:
        with self._lock:
            self._ended = True
            self._kill()
            shutil.rmtree(self._room, ignore_errors=True)
            os._exit(0)


def _main() -> None:
    guard = _Guard(Path(sys.argv[1]))
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=guard.end).start())
    guard.serve()


if __name__ == "__main__":
    _main()
