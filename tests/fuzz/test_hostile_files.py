"""Files that are not what they say, given to ``run`` as inputs: a message and the code 2, in seconds."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mobilekit.cli.main import make_app
from mobilekit.errors import UsageError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.preprocess import Preprocess, load_picture
from mobilekit.tensors import load_npy
from tests.models import conv_classifier, save


def header(text: str, data: bytes = bytes(768), *, version: int = 1, length: int | None = None) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode() + data


def of_shape(shape: str) -> bytes:
    return header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n")


ARRAYS = {
    "negative": of_shape("(-1, 3, 8, 8)"),
    "more than memory": of_shape("(1152921504606846976,)"),
    "as much as overflows": of_shape("(4294967296, 4294967296, 4294967296)"),
    "no whole number": of_shape("(1.5,)"),
    "no header": header("{}\n"),
    "a call": header("__import__('os').mkdir('called')\n"),
    "deep": header("(" * 60_000 + "\n"),
    "a header of 4 GB": header(" ", version=2, length=0xFFFFFFFF),
    "another version": header("x", version=9),
    "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", b"cos\nmkdir\n(S'called'\ntR."),
    "a pickle": b"cos\nmkdir\n(S'called'\ntR.",
    "an archive": b"PK\x03\x04" + bytes(50),
    "nothing": b"",
    "the magic alone": b"\x93NUMPY",
    "cut short": of_shape("(1, 3, 8, 8)")[:-5],
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npy").write_bytes(ARRAYS[name])
    with pytest.raises(UsageError) as caught:
        load_npy(tmp_path / "x.npy")
    assert "x.npy" in caught.value.message
    assert "allow_pickle=" not in caught.value.message.replace("allow_pickle=False", "")
    assert caught.value.hint
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path), lambda path: None])
def test_places_that_are_no_files(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x.npy")
    with pytest.raises(UsageError):
        load_npy(tmp_path / "x.npy")


@pytest.mark.parametrize("array", [np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)), np.arange(3, dtype=">i4")])
def test_other_orders_are_read_as_they_are(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array)
    assert np.array_equal(load_npy(tmp_path / "x.npy"), array)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, extra: bytes = b"") -> bytes:
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + extra + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


PICTURES = {
    "3,600 megapixels": png(60_000, 60_000, bytes(1_000_000)),
    "a text of 200 MB": png(8, 8, bytes(200), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 << 20), 9))),
    "no pixels": png(0, 0, b""),
    "4 billion wide": png(0xFFFFFFFF, 1, b""),
    "cut short": png(8, 8, bytes(200))[:40],
    "noise": b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8,
    "a program": b"%!PS\n(called) (w) file",
    "nothing": b"",
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.png").write_bytes(PICTURES[name])
    with pytest.raises(UsageError, match=r"x\.png"):
        load_picture(tmp_path / "x.png", Preprocess(), (1, 3, 8, 8))
    assert not (tmp_path / "called").exists()


def test_labels_and_names_do_not_reach_the_terminal_as_they_are(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\x1b[31mred\x07\nb\u202eback\nc\x9b1m\nd\n", encoding="utf-8")
    path = save(conv_classifier(), tmp_path / "m.onnx")
    bundle = export_model(path, tmp_path / "b", ExportOptions(verify=False, simplify=False, labels=labels)).bundle
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 8, 8), np.float32))
    done = CliRunner().invoke(make_app(), ["run", str(bundle), "--input", str(tmp_path / "x.npy")])
    assert done.exit_code == 0, done.output
    assert "red" in done.output
    assert all(char.isprintable() or char == "\n" for char in done.output), ascii(done.output)


def test_an_error_s_names_do_not_reach_the_terminal_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "evil\x1b[2J.onnx"
    path.write_bytes(b"no model")
    done = subprocess.run(
        [sys.executable, "-m", "mobilekit", "inspect", str(path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "\\x1b[2J" in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("preprocess",), {"input": "x", "scale": float("nan")}),
        (("preprocess",), {"input": "x", "std": [0.0]}),
        (("preprocess",), {"resize_to": 1 << 40, "resize": "shorter"}),
        (("inputs", 0, "shape"), [1 << 62, 3, 8, 8]),
        (("inputs", 0, "shape"), [-1, 3, 8, 8]),
        (("ncnn", "depth"), 1 << 60),
        (("files", 0, "size_bytes"), 1 << 60),
        (("files", 0, "path"), "../outside"),
        (("labels",), "/etc/hostname"),
        (("model", "file"), "source"),
        (("schema_version",), "9.0"),
    ],
)
def test_manifests_that_lie(tmp_path: Path, place: tuple[str | int, ...], value: object) -> None:
    path = save(conv_classifier(), tmp_path / "m.onnx")
    bundle = export_model(path, tmp_path / "b", ExportOptions(verify=False, simplify=False)).bundle
    manifest = json.loads((bundle / "manifest.json").read_text())
    holder = manifest
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 8, 8), np.float32))
    done = subprocess.run(
        [sys.executable, "-m", "mobilekit", "run", str(bundle), "--input", str(tmp_path / "x.npy")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
