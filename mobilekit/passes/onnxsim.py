"""What the child does that runs onnxsim. It imports next to nothing: that is most of what a small model costs."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from typing import Any

__all__ = ["run_onnxsim"]


def run_onnxsim(source: str, result: str) -> bool:
    """Read ``source``, write ``result``. Loads the extension past ``onnxsim/__init__``."""
    spec = importlib.util.find_spec("onnxsim")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = importlib.machinery.PathFinder.find_spec("onnxsim_cpp2py_export", folders)
    if found is None or found.loader is None:
        raise ImportError("onnxsim is not installed")
    extension: Any = importlib.util.module_from_spec(found)
    found.loader.exec_module(extension)

    class NoFolding(extension.ModelExecutor):  # type: ignore[misc]
        """Constants are folded before; what onnxsim still finds stays as it is."""

        def Run(self, model: object, inputs: object) -> object:  # noqa: N802
            raise NotImplementedError

    ok = extension.simplify_path(
        NoFolding(), source, result, [], False, True, 1 << 20, None, None, True, False, True, None, None, None
    )
    return bool(ok)
