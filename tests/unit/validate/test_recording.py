"""Recordings: written, read back, and refused whatever happened to them on the way."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilekit.errors import BundleError, UsageError
from mobilekit.validate.recording import (
    CHECKSUM,
    DTYPES,
    MANIFEST,
    Provider,
    RecordedModel,
    RecordingWriter,
    open_recording,
)

MODEL = RecordedModel(id="m", sha256="a" * 64, files={"source/model.onnx": "a" * 64})
PROVIDER = Provider(name="ONNX Runtime CPU", version="1", machine="Linux x86_64")


def record(root: Path, count: int = 2) -> Path:
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    writer = RecordingWriter(root)
    for index in range(count):
        writer.add("input", {"x": rng.standard_normal((1, 2, 3)).astype(np.float32)})
        writer.add("output", {"y": rng.standard_normal((4,)), "rows": np.zeros((0, 5), np.int64)})
        writer.add("intermediate", {"x": np.float16(index)})  # a name may be that of an input: another role
        writer.end_sample(f"seed {index}", {"y": 1e-7, "rows": math.nan, "x": math.inf})
    writer.finish("0", MODEL, PROVIDER, seed=0, left_out={"text": "a tensor(string)"})
    return root


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("golden") / "a folder")


def test_what_is_written_is_read_back(golden: Path) -> None:
    recording = open_recording(golden)
    again = np.random.default_rng(0)
    for index, sample in enumerate(recording.samples()):
        assert sample.name == f"seed {index}"
        np.testing.assert_array_equal(sample.tensors["x"], again.standard_normal((1, 2, 3)).astype(np.float32))
        outputs = recording.tensors(index, "output")
        np.testing.assert_array_equal(outputs["y"], again.standard_normal(4))
        assert outputs["rows"].shape == (0, 5)
        assert recording.read(index, "x") == np.float16(index)
        assert recording.doubt(index) == {"y": 1e-7, "rows": math.inf, "x": math.inf}
    line = (golden / CHECKSUM).read_text()
    assert line == f"{hashlib.sha256((golden / MANIFEST).read_bytes()).hexdigest()}  {MANIFEST}\n"


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_plain_type(tmp_path: Path, dtype: str) -> None:
    writer = RecordingWriter(tmp_path)
    array = np.array([[0, 1], [1, 0]]).astype(dtype)
    writer.add("input", {"x": array.T})
    writer.end_sample("one", {})
    writer.finish("0", MODEL, PROVIDER, seed=None, left_out={})
    read = open_recording(tmp_path).read(0, "x", "input")
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array.T)


def test_text_cannot_be_recorded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be recorded"):
        RecordingWriter(tmp_path).add("output", {"words": np.array(["a"], dtype=object)})


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


@settings(max_examples=200)
@given(data=st.data())
def test_any_change_of_any_byte_is_refused(golden: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        copy = Path(shutil.copytree(golden, Path(name) / "copy"))
        path = data.draw(st.sampled_from([p.relative_to(copy).as_posix() for p in files(copy)]))
        content = bytearray((copy / path).read_bytes())
        how = data.draw(st.sampled_from(["flip", "cut", "insert", "append", "empty"]))
        place = data.draw(st.integers(0, len(content) - 1))
        if how == "flip":
            content[place] ^= data.draw(st.integers(1, 255))
        elif how == "cut":
            del content[place]
        elif how == "insert":
            content.insert(place, (content[place] + 1) % 256)
        elif how == "append":
            content += data.draw(st.binary(min_size=1, max_size=9))
        else:
            content.clear()
        (copy / path).write_bytes(content)
        with pytest.raises(BundleError) as caught:
            open_recording(copy)
        assert caught.value.hint
        assert str(copy) in caught.value.message


def no_file(root: Path) -> None:
    (root / "samples/1/0.npy").unlink()


def swapped(root: Path) -> None:
    one, two = root / "samples/0/0.npy", root / "samples/1/0.npy"
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(kept)


def one_more(root: Path) -> None:
    (root / "samples/0/9.npy").write_bytes(b"")


def a_folder_more(root: Path) -> None:
    (root / "samples/7").mkdir()


def deeper(root: Path) -> None:
    (root / "samples/0/deep").mkdir()
    (root / "samples/0/deep/0.npy").write_bytes(b"")


def a_link(root: Path) -> None:
    path = root / "samples/0/0.npy"
    path.rename(root.parent / "elsewhere.npy")
    path.symlink_to(root.parent / "elsewhere.npy")


def a_linked_folder(root: Path) -> None:
    (root / "samples").rename(root.parent / "elsewhere")
    (root / "samples").symlink_to(root.parent / "elsewhere")


def a_linked_manifest(root: Path) -> None:
    (root / MANIFEST).rename(root.parent / "elsewhere.json")
    (root / MANIFEST).symlink_to(root.parent / "elsewhere.json")


def a_pipe(root: Path) -> None:
    import os

    (root / "samples/0/0.npy").unlink()
    os.mkfifo(root / "samples/0/0.npy")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (no_file, "lacks"),
        (swapped, "has changed"),
        (one_more, "does not belong"),
        (a_folder_more, "does not belong"),
        (deeper, "does not belong"),
        (a_link, "symbolic link"),
        (a_linked_folder, "symbolic link"),
        (a_linked_manifest, "not a recording"),
        (a_pipe, "does not belong"),
    ],
)
def test_a_damaged_tree_is_refused(golden: Path, tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    copy = Path(shutil.copytree(golden, tmp_path / "copy"))
    damage(copy)
    with pytest.raises(BundleError, match=said):
        open_recording(copy)


def forge(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and its checksum with it, as somebody with intent would."""
    facts = json.loads((root / MANIFEST).read_text())
    change(facts)
    data = json.dumps(facts).encode()
    (root / MANIFEST).write_bytes(data)
    (root / CHECKSUM).write_text(f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n")


def first(facts: dict[str, Any]) -> dict[str, Any]:
    tensor: dict[str, Any] = facts["samples"][0]["tensors"][0]
    return tensor


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.update(schema_version="2.0"), "schema 2.0"),
        (lambda f: f.update(schema_version="0.9"), "schema 0.9"),
        (lambda f: f.update(schema_version=1), "no recording's manifest"),
        (lambda f: f.pop("schema_version"), "no recording's manifest"),
        (lambda f: f.update(plugin="os:system"), "plugin"),
        (lambda f: first(f).update(file="../../secret"), "file"),
        (lambda f: first(f).update(shape=[1, 2, -3]), "shape"),
        (lambda f: first(f).update(shape=[1] * 100), "shape"),
        (lambda f: first(f).update(shape=[1, 2, 10**30]), "shape"),
        (lambda f: first(f).update(shape=[2, 3]), "holds"),
        (lambda f: first(f).update(dtype="object"), "no type"),
        (lambda f: first(f).update(dtype="float64"), "holds"),
        (lambda f: first(f).update(role="weights"), "role"),
        (lambda f: first(f).update(size_bytes=1), "bytes"),
        (lambda f: f["samples"][0]["tensors"].append(first(f)), "stands twice"),
        (lambda f: f.update(samples=[]), "samples"),
        (lambda f: f["samples"][0]["doubt"].update(y=-1), "doubt"),
    ],
)
def test_a_forged_manifest_is_refused(
    golden: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    copy = Path(shutil.copytree(golden, tmp_path / "copy"))
    forge(copy, change)
    with pytest.raises(BundleError, match=said):
        open_recording(copy)


def forged_array(root: Path, data: bytes, **facts: object) -> Path:
    (root / "samples/0/0.npy").write_bytes(data)
    seen = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **facts}
    forge(root, lambda f: first(f).update(seen))
    return root


def npy(header: str) -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text


@pytest.mark.parametrize(
    ("header", "shape"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}", [1000000, 1000000]),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", [1]),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}" + " " * 100_000, [1]),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (0,)}", [0, 5]),
        ("nonsense", [1]),
    ],
)
def test_a_header_that_lies_is_refused_before_memory_is_taken(
    golden: Path, tmp_path: Path, header: str, shape: list[int]
) -> None:
    copy = forged_array(Path(shutil.copytree(golden, tmp_path / "copy")), npy(header), shape=shape)
    with pytest.raises(BundleError, match=r"0\.npy"):
        open_recording(copy)


def test_a_manifest_that_is_too_long_is_not_read(golden: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(golden, tmp_path / "copy"))
    with (copy / MANIFEST).open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(BundleError, match="no recording's has more"):
        open_recording(copy)


def test_brackets_without_end(golden: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(golden, tmp_path / "copy"))
    data = b"[" * 200_000
    (copy / MANIFEST).write_bytes(data)
    (copy / CHECKSUM).write_text(f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n")
    with pytest.raises(BundleError, match="no recording's manifest"):
        open_recording(copy)


def test_no_recording(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no folder"):
        open_recording(tmp_path / "none")
    with pytest.raises(BundleError, match="not a recording"):
        open_recording(tmp_path)
