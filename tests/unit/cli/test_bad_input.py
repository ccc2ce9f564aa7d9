"""Bad input at the command line: one clear message on stderr, its exit code, no traceback, nothing written."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.models import conv_classifier, of_nodes, save

pytestmark = pytest.mark.slow


def mobilekit(
    *arguments: str | Path, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mobilekit", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], code: int, says: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert "error:" in done.stderr
    assert says in done.stderr
    assert "hint:" in done.stderr or "remedy:" in done.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(conv_classifier(), tmp_path / "model.onnx")


def external(tmp_path: Path, location: str) -> Path:
    """A model whose one weight lies in an external file at ``location``."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], np.ones(4, np.float32).tobytes(), raw=True)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    proto = of_nodes([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (1, 4)}, {"y": (1, 4)})
    proto.graph.initializer.append(weight)
    (tmp_path / "models").mkdir(exist_ok=True)
    return save(proto, tmp_path / "models" / "external.onnx")


@pytest.mark.parametrize("kind", ["truncated", "random", "empty", "text", "absent", "a folder"])
def test_a_file_that_is_no_model(tmp_path: Path, model: Path, kind: str) -> None:
    path = tmp_path / "bad.onnx"
    if kind == "truncated":
        path.write_bytes(model.read_bytes()[:-200])
    elif kind == "random":
        path.write_bytes(random.Random(1).randbytes(5000))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is not a model\n" * 100)
    elif kind == "a folder":
        path.mkdir()
    refused(mobilekit("export", path, "-o", "out", cwd=tmp_path), 2, "bad.onnx")
    refused(mobilekit("inspect", path, cwd=tmp_path), 2, "bad.onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("location", ["missing.bin", "../outside.bin", "/etc/hostname", "link.bin", "short.bin"])
def test_external_data_that_is_missing_or_outside(tmp_path: Path, location: str) -> None:
    path = external(tmp_path, location)
    (tmp_path / "outside.bin").write_bytes(bytes(16))
    (path.parent / "link.bin").symlink_to(tmp_path / "outside.bin")
    (path.parent / "short.bin").write_bytes(bytes(8))
    refused(mobilekit("export", path, "-o", "out", cwd=tmp_path), 2, location)
    assert not (tmp_path / "out").exists()


def test_external_data_that_is_there_is_used(tmp_path: Path) -> None:
    path = external(tmp_path, "weights/w 1.bin")
    (path.parent / "weights").mkdir()
    (path.parent / "weights" / "w 1.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    done = mobilekit("export", path, "-o", "out dir", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out dir" / "source" / "weights" / "w 1.bin").is_file()


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ("images:1x3x8x8", "serving_default_input:0"),
        ("serving_default_input:0:1x3x8", "serving_default_input:0"),
        ("serving_default_input:0:1x3x9x9", "serving_default_input:0"),
        ("1x3x8x8", "NAME:1x3x224x224"),
        ("serving_default_input:0:1x3x0x8", "at least 1"),
    ],
)
def test_an_input_shape_that_does_not_fit(tmp_path: Path, model: Path, shape: str, says: str) -> None:
    refused(mobilekit("export", model, "--input-shape", shape, "-o", "out", cwd=tmp_path), 2, says)
    assert not (tmp_path / "out").exists()


def test_unsupported_operators_are_one_complete_list(tmp_path: Path) -> None:
    nodes = [helper.make_node("Bernoulli", ["x"], ["a"]), helper.make_node("Multinomial", ["a"], ["y"], sample_size=2)]
    proto = of_nodes(nodes, {"x": (1, 4)}, {})
    proto.graph.output.append(helper.make_tensor_value_info("y", TensorProto.INT32, [1, 2]))
    done = mobilekit("export", save(proto, tmp_path / "bad.onnx"), "-o", "out", cwd=tmp_path)
    refused(done, 5, "Bernoulli")
    assert "Multinomial" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--target", "coreml"], ["--precision", "fp12"], ["--labels", "absent.txt"]])
def test_options_that_do_not_exist(tmp_path: Path, model: Path, option: list[str]) -> None:
    refused(mobilekit("export", model, "-o", "out", *option, cwd=tmp_path), 2, option[1])


def test_a_full_disk(tmp_path: Path) -> None:
    """On a tmpfs of 64 KB, in a mount namespace of its own."""
    weights = {"w": np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)}
    proto = of_nodes([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (1, 256)}, {"y": (1, 256)}, weights)
    path = save(proto, tmp_path / "big.onnx")
    (tmp_path / "small").mkdir()
    script = (
        f"mount -t tmpfs -o size=64k none '{tmp_path}/small' && "
        f"'{sys.executable}' -m mobilekit export '{path}' -o '{tmp_path}/small/out'; code=$?; "
        f"ls -A '{tmp_path}/small'; exit $code"
    )
    probe = subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no user namespaces here: {probe.stderr.decode()}")
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    refused(done, 4, "no space left")
    assert done.stdout == "", "something was left on the full disk"


@contextmanager
def exporting(tmp_path: Path, model: Path) -> Iterator[subprocess.Popen[str]]:
    """An export that waits with its folder half written and ONNX Runtime started: its labels are a pipe that nobody
    writes to."""
    labels = tmp_path / "labels"
    os.mkfifo(labels)
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "mobilekit", "export", str(model), "-o", "out", "--labels", str(labels)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "TMPDIR": str(tmp_path / "tmp")},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    writer = None
    while writer is None:
        assert process.poll() is None, process.communicate()[1]
        try:
            writer = os.open(labels, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody reads it yet
                raise
            time.sleep(0.02)
    try:
        yield process
    finally:
        os.close(writer)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interruption_leaves_nothing(tmp_path: Path, model: Path, number: int, code: int) -> None:
    with exporting(tmp_path, model) as process:
        process.send_signal(number)
        if number == signal.SIGTERM:
            process.send_signal(number)  # some send it twice
        _, rest = process.communicate(timeout=120)
    assert process.returncode == code, rest
    assert "Traceback" not in rest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels", "model.onnx", "tmp"]
    assert not list((tmp_path / "tmp").iterdir())


def test_what_a_killed_command_left_goes_with_the_next(tmp_path: Path, model: Path) -> None:
    with exporting(tmp_path, model) as process:
        process.kill()
        process.communicate()
    left = {path.name for path in [*tmp_path.glob(".out.*"), *(tmp_path / "tmp").iterdir()]}
    assert any(name.startswith("mobilekit-scratch-") for name in left), left
    assert any(name.startswith(".out.") for name in left), left
    done = mobilekit("export", model, "-o", "out", cwd=tmp_path, environment={"TMPDIR": str(tmp_path / "tmp")})
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "tmp").iterdir())
    assert not list(tmp_path.glob(".out.*"))


def test_the_model_on_disk_is_untouched(tmp_path: Path, model: Path) -> None:
    before = model.read_bytes()
    assert mobilekit("export", model, "-o", "out", cwd=tmp_path).returncode == 0
    assert model.read_bytes() == before
    onnx.checker.check_model(onnx.load(model))


@pytest.mark.parametrize("command", ["inspect", "export", "validate", "run"])
def test_a_path_that_is_too_long(tmp_path: Path, command: str) -> None:
    done = mobilekit(command, "a" * 300, *(["-o", "o"] if command == "export" else []), cwd=tmp_path)
    refused(done, 2, "give a shorter path")
    assert "internal" not in done.stderr


def test_a_crash_is_told_where_no_file_of_it_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    crash = "from mobilekit.cli.main import _internal; _internal(ValueError('odd'))"
    done = subprocess.run(
        [sys.executable, "-c", crash],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "MOBILEKIT_STATE": str(tmp_path / "file")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "internal error: ValueError: odd" in done.stderr
    assert "please report it" in done.stderr


def test_reports_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    refused(mobilekit("report", "deep.json", "-o", "r.html", cwd=tmp_path), 2, "deep.json")


@pytest.mark.parametrize(
    ("where", "code"),
    [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), ("<&- >&- 2>&-", 0), (">/dev/full", 4)],
)
def test_streams_that_take_nothing(tmp_path: Path, model: Path, where: str, code: int) -> None:
    command = f"'{sys.executable}' -m mobilekit inspect '{model}' {where}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "internal error" not in done.stderr + done.stdout


def test_a_pipe_that_nobody_reads(tmp_path: Path, model: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mobilekit", "inspect", str(model)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONUNBUFFERED": "1"}
    try:
        done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=write, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(write)
    assert done.returncode == 128 + signal.SIGPIPE, done.stderr
    assert b"error" not in done.stderr
