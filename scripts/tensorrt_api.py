"""Record which names of TensorRT's Python API each version has, from its own wheels, in the tests' ``api.csv``.

    pip download --no-deps --only-binary :all: -d wheels tensorrt-cu12-bindings==10.3.0     # and each other version
    python scripts/tensorrt_api.py wheels/*.whl

Full TensorRT's bindings cannot be imported without NVIDIA's libraries and a GPU. But every name that Python sees stands
in their shared library as a string; nothing is run and nothing of the wheels is kept but yes or no for each name that
mobilekit or an example uses. A name says nothing of the class that has it.
"""

from __future__ import annotations

import ast
import builtins
import csv
import hashlib
import importlib
import inspect
import io
import re
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "unit" / "targets" / "tensorrt" / "api.csv"
USERS = (ROOT / "mobilekit" / "targets" / "tensorrt" / "worker", ROOT / "examples" / "plugin" / "roll_plugin.py")
LANDMARKS = ("IInt8EntropyCalibrator2", "get_engine_validity", "set_compute_capability", "device_memory_size")
"""Names that are known to come and go between versions: the table must tell them apart."""


def names_used(path: Path) -> set[str]:
    """Attributes that the file, or all files of the folder, read or set, and methods that they override, which are not
    their own or Python's."""
    tree = _parsed(path)
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.args[1].value for node in ast.walk(tree) if _asks(node)}  # type: ignore[attr-defined]
    return {name for name in used if not name.startswith("_")} - _own(tree) - _pythons(tree)


def guarded(path: Path) -> set[str]:
    """Names that the file or folder asks for with ``hasattr`` or ``getattr`` and a default before it uses them."""
    tree = _parsed(path)
    return {node.args[1].value for node in ast.walk(tree) if _asks(node)}  # type: ignore[attr-defined]


def _parsed(path: Path) -> ast.Module:
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return ast.Module([node for file in files for node in ast.parse(file.read_text("utf-8")).body], [])


def _asks(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or len(node.args) < 2:
        return False
    asks = node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3)
    return asks and isinstance(node.args[1], ast.Constant) and isinstance(node.args[1].value, str)


def _own(tree: ast.Module) -> set[str]:
    """What the file defines: functions, and of classes that extend nothing of others methods and what ``self`` has."""
    own: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and not any(isinstance(base, ast.Attribute) for base in node.bases):
            own |= {item.name for item in ast.walk(node) if isinstance(item, ast.FunctionDef)}
            for item in ast.walk(node):
                if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name) and item.value.id == "self":
                    own.add(item.attr)
    return own | {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def _pythons(tree: ast.Module) -> set[str]:
    """Names of the standard library's modules that the file imports, of numpy and of built-in types."""
    names: set[str] = set()
    for value in (*vars(builtins).values(), io.TextIOWrapper, Path):
        if inspect.isclass(value):
            names |= set(dir(value))
    for module in _modules(tree):
        names |= set(dir(module))
        for value in vars(module).values():
            if inspect.isclass(value):
                names |= set(dir(value))
    return names


def _modules(tree: ast.Module) -> Iterable[object]:
    for node in ast.walk(tree):
        wanted: list[str] = []
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            wanted = [node.module]
        for name in wanted:
            if name.split(".")[0] not in ("tensorrt", "tensorrt_rtx", "trtwork"):
                yield importlib.import_module(name)


def in_wheel(wheel: Path) -> tuple[str, bytes]:
    """The version by which the table calls a bindings wheel, and its shared library."""
    found = re.match(r"(tensorrt(?:_rtx)?)_cu\d+_bindings-(\d+\.\d+)", wheel.name)
    if found is None:
        raise SystemExit(f"{wheel.name} is no wheel of TensorRT's bindings")
    with zipfile.ZipFile(wheel) as archive:
        library = next(name for name in archive.namelist() if re.search(r"tensorrt(_rtx)?\.so$", name))
        return f"{'rtx' if found[1].endswith('rtx') else 'full'} {found[2]}", archive.read(library)


def has(library: bytes, name: str) -> bool:
    """Whether ``name`` is a string of the library, or the end of one: linkers let strings share their ends, as
    ``register_creator`` does with ``deregister_creator``."""
    return name.encode() + b"\0" in library


def main(wheels: list[str]) -> None:
    names = sorted({*LANDMARKS, *(name for path in USERS for name in names_used(path))})
    libraries = [(*in_wheel(Path(wheel)), Path(wheel)) for wheel in wheels]
    with TABLE.open("w", newline="") as file:
        for version, _, wheel in libraries:
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            file.write(f"# {version}: {wheel.name} sha256 {digest}\n")
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["name", *(version for version, _, _ in libraries)])
        for name in names:
            table.writerow([name, *("yes" if has(library, name) else "no" for _, library, _ in libraries)])
    print(f"{TABLE}: {len(names)} names in {len(libraries)} versions")


if __name__ == "__main__":
    main(sys.argv[1:])
