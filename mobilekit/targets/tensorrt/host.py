"""Machines that do the jobs of :mod:`mobilekit.targets.tensorrt.worker`: a protocol, and this machine."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from mobilekit import errors, interrupts
from mobilekit.errors import ChildCrashError, ChildError, ChildTimeoutError, MobilekitError, SetupError
from mobilekit.paths import Scratch
from mobilekit.progress import SILENT, Progress
from mobilekit.targets.tensorrt.flavour import FLAVOURS

__all__ = ["WORKER", "Gpu", "Hello", "LocalHost", "WorkerHost", "job_folder", "parse_hello", "read_result"]

WORKER = Path(__file__).with_name("worker")
"""A program that Python runs as it stands; Python 3.8, numpy and TensorRT are all that it needs."""

PROTOCOL = 1

_HELLO_TIMEOUT_S = 120.0
_KINDS: Mapping[str, type[MobilekitError]] = {
    "no-gpu": errors.NoDeviceError,
    "no-tensorrt": errors.SetupError,
    "driver": errors.SetupError,
    "memory": errors.DeviceError,
    "cuda": errors.DeviceError,
    "plan-version": errors.SetupError,
    "plan-device": errors.SetupError,
    "plan-corrupt": errors.BundleError,
    "shape": errors.UsageError,
    "input": errors.UsageError,
    "wrong": errors.VerificationError,
    "storage": errors.StorageError,
    "protocol": errors.SetupError,
}


@dataclass(frozen=True, slots=True)
class Gpu:
    index: int
    name: str
    compute_capability: str
    memory_bytes: int
    integrated: bool


@dataclass(frozen=True, slots=True)
class Hello:
    """A machine as its worker describes it. ``flavours``: versions of TensorRT by ``rtx`` and ``full``; ``broken``:
    why one that is installed cannot be imported. ``cuda``: the newest version that the driver serves. ``problem``: why
    there are no GPUs."""

    python: str
    numpy: str
    system: str
    machine: str
    flavours: Mapping[str, str]
    broken: Mapping[str, str]
    gpus: tuple[Gpu, ...]
    driver: str
    cuda: str
    problem: str


def parse_hello(line: str, where: str) -> Hello:
    """What ``worker --hello`` prints; :class:`SetupError` where it is nothing of the kind."""
    try:
        told = json.loads(line)
        if told["protocol"] != PROTOCOL:
            raise SetupError(
                f"the worker on {where} speaks protocol {told['protocol']}, and this mobilekit {PROTOCOL}",
                hint="use one version of mobilekit on both sides",
            )
        found: Mapping[str, Mapping[str, str]] = told["flavours"]
        return Hello(
            **{key: str(told[key]) for key in ("python", "numpy", "system", "machine", "driver", "cuda", "problem")},
            flavours={name: str(facts["version"]) for name, facts in found.items() if "version" in facts},
            broken={name: str(facts["problem"]) for name, facts in found.items() if "problem" in facts},
            gpus=tuple(Gpu(**gpu) for gpu in told["gpus"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SetupError(f"the worker on {where} says nothing that makes sense: {line[:200]!r}") from error


class WorkerHost(Protocol):
    """A machine; a context manager. While it is open, one worker process does its jobs one after another, and a plan
    stays loaded from one ``run`` to the next. Open a new one for each build."""

    @property
    def name(self) -> str:
        """``"this machine"``, ``"ssh://user@host"``."""
        ...

    def __enter__(self) -> WorkerHost: ...

    def __exit__(self, *exc: object) -> None: ...

    def hello(self) -> Hello: ...

    def perform(self, folder: Path, *, what: str, timeout_s: float, progress: Progress = SILENT) -> dict[str, Any]:
        """Do the job in the local ``folder`` (:func:`job_folder`); its result, and its files are there then.

        ``what`` names the work in messages. Raises what :func:`read_result` does, and :class:`ChildError` where the
        worker dies or takes longer than ``timeout_s``.
        """
        ...


@contextmanager
def job_folder(
    verb: Literal["check", "build", "run", "inspect"],
    arguments: Mapping[str, Any],
    files: Mapping[str, Path] | None = None,
) -> Iterator[Path]:
    """A temporary folder that holds a job: ``arguments`` are those of the worker's function, ``files`` are linked
    into it by name."""
    with Scratch("tensorrt") as folder:
        for file, path in (files or {}).items():
            (folder / file).symlink_to(path.resolve())
        job = {"protocol": PROTOCOL, "verb": verb, **arguments}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        yield folder


def read_result(folder: Path, what: str) -> dict[str, Any]:
    """``folder/result.json``; raises the error that it tells of, or :class:`ChildError` where there is none."""
    try:
        result = json.loads((folder / "result.json").read_text("utf-8"))
        error = result.get("error")
    except (OSError, ValueError, AttributeError, RecursionError) as problem:
        raise ChildError(f"{what} gave no result") from problem
    if error is None:
        return dict(result)
    try:
        kind, message, hint = (str(error[key]) for key in ("kind", "message", "hint"))
    except (KeyError, TypeError, IndexError) as problem:
        raise ChildError(f"{what} failed and does not say why") from problem
    raise _KINDS[kind](message, hint=hint) if kind in _KINDS else ChildError(f"{what}: {message}", hint=hint)


_OF_CONCERN = re.compile(
    r"PATH|HOME|TMPDIR|LANG|LC_.*|LD_.*|XDG_CACHE_HOME|(PYTHON|CUDA|NV|TRT|TENSORRT|MOBILEKIT).*", re.ASCII
)


def _of_concern(variables: Mapping[str, str]) -> dict[str, str]:
    """TensorRT for RTX orders some tensors of a plan by their addresses, and the size of the environment moves those:
    a plan's bytes would change with the folder that one stands in, say. Its bindings take no plugins, which might read
    any variable."""
    return {name: variables[name] for name in sorted(variables) if _OF_CONCERN.fullmatch(name)}


class LocalHost:
    """This machine: the worker is a child process, which ends with us, however we end."""

    name = "this machine"

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._ended = False
        self._answers: queue.Queue[str] = queue.Queue()
        self._said: deque[str] = deque(maxlen=3)
        self._progress: Progress = SILENT
        self._readers: tuple[threading.Thread, ...] = ()

    def __enter__(self) -> LocalHost:
        self._ended = False
        return self

    def start(self, module: str) -> None:
        """Start the worker now, so that it imports ``module`` while there is other work to do."""
        if self._process is None:
            self._start(module)

    def __exit__(self, *exc: object) -> None:
        self.end()

    def end(self) -> None:
        """The worker ends, whatever it does, and none begins: a thread that waits for it gets its error."""
        with self._lock:
            self._ended = True
        self._close()

    def hello(self) -> Hello:
        command = [sys.executable, "-P", str(WORKER), "--hello"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_HELLO_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise ChildTimeoutError("looking for TensorRT", limit_s=_HELLO_TIMEOUT_S) from error
        if done.returncode < 0:
            raise ChildCrashError("looking for TensorRT", signal=-done.returncode)
        return parse_hello(done.stdout.strip(), self.name)

    def perform(self, folder: Path, *, what: str, timeout_s: float, progress: Progress = SILENT) -> dict[str, Any]:
        with self._lock:
            if self._ended:
                raise ChildError(f"{what} was not begun: its worker has ended")
            process = self._process or self._start()
        self._progress = progress
        assert process.stdin is not None
        with suppress(BrokenPipeError, ValueError):  # it died, or was ended meanwhile
            process.stdin.write(f"{folder}\n")
            process.stdin.flush()
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            self._close()
            hint = "raise the limit with --timeout"
            raise ChildTimeoutError(what, limit_s=timeout_s, hint=hint) from None
        except BaseException:
            self._close()
            raise
        if answer:
            return read_result(folder, what)
        returncode = process.wait()
        said = "\n".join(self._said)
        self._close()
        if returncode < 0:
            raise ChildCrashError(what, signal=-returncode, hint=said)
        raise ChildError(f"{what} ended with exit code {returncode} and no answer", hint=said)

    def _start(self, *modules: str) -> subprocess.Popen[str]:
        # Alone on its path (-P), in a group of its own: Ctrl-C is ours to handle.
        with interrupts.held():
            self._process = process = subprocess.Popen(
                [sys.executable, "-P", str(WORKER), "--serve", *modules],
                env=_of_concern(os.environ) if modules == (FLAVOURS["rtx"].module,) else None,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._answers, self._said = queue.Queue(), deque(maxlen=3)
            listener = threading.Thread(target=self._listen, args=(process,), daemon=True)
            hearer = threading.Thread(target=self._hear, args=(process, listener), daemon=True)
            self._readers = (listener, hearer)
            for thread in self._readers:
                thread.start()
        return process

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """Progress and what native libraries say, until the process ends."""
        assert process.stderr is not None
        for line in process.stderr:
            try:
                self._progress.step(str(json.loads(line)["step"]))
            except (ValueError, KeyError, TypeError):
                self._said.append(line.strip()[:300])

    def _hear(self, process: subprocess.Popen[str], other: threading.Thread) -> None:
        """Answers; an empty one when the process has ended and has said all."""
        answers = self._answers
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(line)
        other.join()
        answers.put("")

    def _close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for thread in self._readers:
            thread.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
