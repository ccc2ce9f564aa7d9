"""TensorRT, both flavours: its module, its log, what its messages mean, and plugins."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .base import WorkError
from .cuda import MEMORY_HINT

MODULES = {"rtx": "tensorrt_rtx", "full": "tensorrt"}
PRODUCTS = {"tensorrt_rtx": "TensorRT for RTX", "tensorrt": "TensorRT"}
_OLDEST = 10
_MOST_WARNINGS = 50


def import_tensorrt(module: str) -> Any:
    if module not in PRODUCTS:
        raise WorkError("protocol", f"unknown module {module!r}")
    if importlib.util.find_spec(module) is None:
        hint = "pip install tensorrt-rtx" if module == "tensorrt_rtx" else "install TensorRT; JetPack has it"
        raise WorkError("no-tensorrt", f"{PRODUCTS[module]} is not installed (Python module {module})", hint)
    try:
        trt = importlib.import_module(module)
        version = str(trt.__version__)
    except Exception as error:
        raise WorkError("no-tensorrt", f"cannot import {module}: {error}", "install it again") from error
    if module == "tensorrt" and int(re.match(r"\d*", version)[0] or 0) < _OLDEST:  # type: ignore[index]
        text = f"TensorRT {version} is too old, 10.3 or newer is needed"
        raise WorkError("no-tensorrt", text, "JetPack 6 has it, so has NVIDIA's index")
    return trt


def logger(trt: Any) -> Any:
    """This process's ``ILogger``; it keeps errors, warnings and the messages about layers, the rest is thousands of
    lines. TensorRT has one for all that it makes, the first that it was given: another would hear nothing."""
    name = trt.__name__
    if name not in _loggers:
        _loggers[name] = _new_logger(trt)
    return _loggers[name]


_loggers: dict[str, Any] = {}


def _new_logger(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warned: dict[str, None] = {}
            self.layers: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))
            elif severity == trt.ILogger.Severity.WARNING:
                if len(self.warned) < _MOST_WARNINGS:
                    self.warned[message] = None
            elif message.lstrip().startswith("Layers:"):
                self.layers.append(message)

        def last_error(self, since: int) -> str:
            return ["", *self.errors[since:]][-1]

        def warnings(self) -> list[str]:
            return list(self.warned)

    return Log()


_SIGNS = (
    # What the libraries say, as in public reports of each failure; the first that is found counts.
    ("memory", re.compile(r"out ?of ?memory|could not be allocated", re.IGNORECASE), MEMORY_HINT),
    (
        "driver",
        re.compile(r"driver version is insufficient|cudaError 35\b|CUDA initialization failure with error: 35\b"),
        "update the NVIDIA driver",
    ),
    ("plan-device", re.compile(r"incompatible device|expecting compute"), "export the model again for this GPU"),
    (
        "plan-version",
        re.compile(r"not compatible with this version|expecting library version|[Vv]ersion tag|VersionRead"),
        "export the model again with the TensorRT of this machine",
    ),
    (
        "plan-corrupt",
        re.compile(r"Serialization assertion|magicTag|[Mm]agic tag|empty memory buffer"),
        "export the model again",
    ),
)


def explained(messages: Iterable[str], otherwise: str) -> WorkError:
    """The error that TensorRT's messages tell of; ``otherwise`` is what happened, where they tell of no known one."""
    said = list(messages)
    for kind, sign, hint in _SIGNS:
        for message in said:
            if sign.search(message):
                return WorkError(kind, f"{otherwise}: {message}", hint)
    return WorkError("internal", ": ".join([otherwise, *said[:1]]), "look at the GPU with nvidia-smi, and export again")


def made_by(factory: Any, log: Any, otherwise: str) -> Any:
    """``factory(log)``, whose only word on failure is that it has nothing to give."""
    before = len(log.errors)
    try:
        made = factory(log)
    except TypeError:
        made = None
    if made is None:
        raise explained(log.errors[before:], otherwise)
    return made


def register_plugins(trt: Any, log: Any, plugins: Sequence[str]) -> None:
    """Give TensorRT its own plugins (EfficientNMS_TRT and such), which only the full product has, and the creators
    ``module:Class``, from the Python path or the current folder."""
    if trt.__name__ == "tensorrt":
        trt.init_libnvinfer_plugins(log, "")
    if plugins and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    for text in plugins:
        if text in _creators:  # a second one of that name would be refused
            continue
        module, _, name = text.partition(":")
        try:
            creator = getattr(importlib.import_module(module), name)()
            taken = trt.get_plugin_registry().register_creator(creator, creator.plugin_namespace)
        except Exception as error:
            what = f"the plugin {text} cannot be loaded: {type(error).__name__}: {error}"
            raise WorkError(
                "input", what, "--plugin module:Class names an IPluginCreatorV3One on PYTHONPATH"
            ) from error
        if not taken:
            raise WorkError("input", f"TensorRT does not take the plugin {text}", "another one may have its name")
        _creators[text] = creator  # TensorRT keeps no reference


_creators: dict[str, Any] = {}
