"""The program: what it is asked for, and how it answers."""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.util
import json
import os
import platform
import queue
import resource
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import PROTOCOL, WorkError, write_whole
from .bindings import MODULES, PRODUCTS, import_tensorrt
from .build import build, check
from .cuda import Cuda, driver_version
from .look import inspect
from .run import run


def hello() -> dict[str, Any]:
    """What is here. ``flavours`` maps rtx and full to a version, or to the reason why a module that is there fails."""
    import numpy

    told: dict[str, Any] = {
        "protocol": PROTOCOL,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "system": platform.system(),
        "machine": platform.machine(),
        "flavours": {},
        "gpus": [],
        "driver": "",
        "cuda": "",
        "problem": "",
    }
    for name, module in MODULES.items():
        if importlib.util.find_spec(module) is None:
            continue
        try:
            told["flavours"][name] = {"version": str(import_tensorrt(module).__version__)}
        except WorkError as error:
            told["flavours"][name] = {"problem": " ".join(str(error.__cause__ or error).split())}
    try:
        cuda = Cuda()
        told["gpus"], told["driver"] = cuda.gpus(), driver_version()
        number = cuda.integer("cuDriverGetVersion")
        told["cuda"] = f"{number // 1000}.{number % 1000 // 10}"
    except WorkError as error:
        told["problem"] = error.message
    return told


_VERBS: Mapping[str, Callable[..., dict[str, Any]]] = {"check": check, "build": build, "run": run, "inspect": inspect}


def perform(folder: Path) -> None:
    """Do the job in ``folder`` and write its result."""
    try:
        result = _perform(folder)
    except WorkError as error:
        result = {"error": {"kind": error.kind, "message": error.message, "hint": error.hint}}
    except MemoryError:
        text = "there was not enough memory"
        result = {"error": {"kind": "memory", "message": text, "hint": "use a machine with more memory"}}
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        text = f"no space left in {folder}: {error.strerror}" if full else f"OSError: {error}"
        hint = "free some space, or set TMPDIR to another folder" if full else ""
        result = {"error": {"kind": "storage" if full else "internal", "message": text, "hint": hint}}
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        result = {"error": {"kind": "internal", "message": text, "hint": ""}}
    write_whole(folder / "result.json", json.dumps(result).encode())


def _perform(folder: Path) -> dict[str, Any]:
    job = json.loads((folder / "job.json").read_text("utf-8"))
    if job.pop("protocol", None) != PROTOCOL:
        raise WorkError("protocol", f"the worker speaks protocol {PROTOCOL}", "use one version of mobilekit")
    verb = _VERBS.get(job.pop("verb", ""))
    if verb is None:
        raise WorkError("protocol", "unknown verb", "use one version of mobilekit")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # CUDA reserves more than there is, and so does TensorRT for RTX where it finds a driver.
    if verb in (check, build) and job.get("module") == "tensorrt_rtx" and not _has_driver():
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return verb(folder, **job)


def _has_driver() -> bool:
    try:
        Cuda()
    except WorkError:
        return False
    return True


def serve(answers: int, module: str = "") -> None:
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line.rstrip("\n"))
        os._exit(0)  # who asked is gone: whatever runs here, runs for nobody

    threading.Thread(target=read, daemon=True).start()
    if module in PRODUCTS:
        with contextlib.suppress(Exception):  # a job will say what is wrong
            importlib.import_module(module)
    while True:
        name = lines.get()
        perform(Path(name))
        os.write(answers, (json.dumps({"job": name}) + "\n").encode())


def main(arguments: Sequence[str]) -> None:
    answers = os.dup(1)  # native libraries print to stdout
    os.dup2(2, 1)
    if arguments == ["--hello"]:
        os.write(answers, (json.dumps(hello()) + "\n").encode())
    elif arguments and arguments[0] == "--serve" and len(arguments) < 3:
        serve(answers, *arguments[1:])
    elif len(arguments) == 1 and Path(arguments[0]).is_dir():
        perform(Path(arguments[0]))
    else:
        sys.exit("usage: worker --hello | --serve [MODULE] | FOLDER")
    sys.stderr.flush()
    os._exit(0)  # exit handlers of native libraries have crashed after good answers
