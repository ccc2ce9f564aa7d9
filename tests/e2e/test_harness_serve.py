"""A real harness, built for this machine, over its real socket; and one for arm64 under qemu where both are there."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilekit.device.harness import protocol
from mobilekit.device.harness.client import HarnessSession
from mobilekit.device.harness.locate import find_harness
from mobilekit.device.harness.protocol import ErrorCode, LoadOptions, MessageType
from mobilekit.errors import (
    HarnessCrashError,
    HarnessError,
    HarnessTimeoutError,
    ProtocolError,
    SetupError,
)
from tests.unit.device.harness import harness_models as models

# The first of these to run may have to build the harness.
pytestmark = pytest.mark.timeout(3600)

_ABI = {"x86_64": "x86_64", "aarch64": "arm64-v8a"}.get(platform.machine(), "x86_64")
_INPUT = np.random.default_rng(3).standard_normal((3, 24, 24)).astype(np.float32)

_SLOW_INPUT = np.ones((256, 128, 128), np.float32)


@pytest.fixture(scope="session")
def executable() -> Path:
    return find_harness(_ABI, static_only=True)


@pytest.fixture
def session(executable: Path) -> Iterator[HarnessSession]:
    with HarnessSession.connect_local(executable) as session:
        yield session


@pytest.fixture
def loaded(session: HarnessSession, tmp_path: Path) -> HarnessSession:
    files = models.convolutional(tmp_path)
    session.load(str(files.param), str(files.bin), LoadOptions(threads=1))
    return session


def _pid(session: HarnessSession) -> int:
    assert session._running is not None
    pid = session._running.process.pid  # type: ignore[attr-defined]
    assert isinstance(pid, int)
    return pid


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _wheel(files: models.Files, outputs: list[str]) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    import ncnn

    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    assert net.load_param(str(files.param)) == 0
    assert net.load_model(str(files.bin)) == 0
    extractor = net.create_extractor()
    mat = ncnn.Mat(_INPUT)
    extractor.input("in", mat)
    results = {}
    for name in outputs:
        code, out = extractor.extract(name)
        assert code == 0
        results[name] = np.array(out)
    return results


def _relative_l2(actual: np.ndarray, expected: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def test_says_what_it_is(session: HarnessSession) -> None:
    info = session.info()
    assert (info.abi, info.protocol_version, info.ncnn_version) == (_ABI, protocol.VERSION, "1.0.20261020")
    assert info.cpus >= 1
    assert session.hello.max_frame_bytes == protocol.DEFAULT_MAX_FRAME


def test_computes_what_the_ncnn_wheel_computes(loaded: HarnessSession, tmp_path: Path) -> None:
    expected = _wheel(models.Files(tmp_path / "model.param", tmp_path / "model.bin"), ["branch/0:0", "logits"])
    report = loaded.infer({"in": _INPUT}, ["logits", "mid", "branch/0:0"], warmup=1, iterations=3)
    assert list(report.outputs) == ["logits", "mid", "branch/0:0"]
    assert report.outputs["mid"].shape == (16, 24, 24)
    for name, value in expected.items():
        assert _relative_l2(report.outputs[name], value) < 1e-5
    assert len(report.latencies_ns) == 3
    assert min(report.latencies_ns) > 0
    # "mid" alone is 16 x 24 x 24 floats, and the input is there with it.
    assert report.peak_blob_bytes >= (16 + 3) * 24 * 24 * 4
    assert report.peak_total_bytes <= report.peak_blob_bytes + report.peak_workspace_bytes


def test_another_input_gives_another_output(loaded: HarnessSession) -> None:
    first = loaded.infer({"in": _INPUT}).outputs["logits"]
    assert _relative_l2(loaded.infer({"in": _INPUT[:, ::-1].copy()}).outputs["logits"], first) > 1e-3
    np.testing.assert_array_equal(loaded.infer({"in": _INPUT}).outputs["logits"], first)


def test_inputs_in_a_row_give_what_each_gives_alone(loaded: HarnessSession) -> None:
    inputs = [np.roll(_INPUT, shift, axis=2) for shift in range(6)]
    alone = [loaded.infer({"in": each}, ["logits"]).outputs["logits"] for each in inputs]
    reports = list(loaded.infer_each(({"in": each} for each in inputs), ["logits"]))
    np.testing.assert_array_equal([report.outputs["logits"] for report in reports], alone)
    assert all(_relative_l2(one, other) > 1e-3 for one, other in pairwise(alone))
    times = [report.session_ns for report in reports]
    assert times == sorted(times)
    assert 0 < reports[-1].session_inference_ns <= reports[-1].session_ns
    # Twelve runs were asked for in this session.
    assert reports[-1].session_inference_ns > sum(sum(report.latencies_ns) for report in reports)


def test_large_inputs_and_outputs_in_a_row_do_not_wait_for_each_other(session: HarnessSession, tmp_path: Path) -> None:
    files = models.slow(tmp_path)
    session.load(str(files.param), str(files.bin), LoadOptions(threads=1))
    # 16 MiB there and back: no socket holds that.
    found = list(session.infer_each(({"b0": _SLOW_INPUT} for _ in range(4)), ["b0", "b1"], timeout_s=120))
    assert len(found) == 4
    for report in found:
        np.testing.assert_array_equal(report.outputs["b0"], _SLOW_INPUT)


def test_inputs_in_a_row_that_are_given_up_leave_the_session_usable(loaded: HarnessSession) -> None:
    expected = loaded.infer({"in": _INPUT}, ["logits"]).outputs["logits"]
    other = _INPUT[:, ::-1].copy()
    reports = loaded.infer_each(({"in": other} for _ in range(5)), ["logits"])
    next(reports)
    reports.close()
    np.testing.assert_array_equal(loaded.infer({"in": _INPUT}, ["logits"]).outputs["logits"], expected)
    # A refused one ends the row, and the one behind it is not taken for the answer to what comes next.
    with pytest.raises(HarnessError, match="no blob 'absent'"):
        list(loaded.infer_each([{"in": other}, {"absent": other}, {"in": other}], ["logits"]))
    np.testing.assert_array_equal(loaded.infer({"in": _INPUT}, ["logits"]).outputs["logits"], expected)


def test_whoever_waits_for_an_answer_is_woken_by_another_thread(session: HarnessSession, tmp_path: Path) -> None:
    files = models.slow(tmp_path)
    session.load(str(files.param), str(files.bin), LoadOptions(threads=1))
    pid = _pid(session)
    waker = threading.Timer(0.3, session.interrupt)
    waker.start()
    with pytest.raises(HarnessError):
        session.infer({"b0": _SLOW_INPUT}, iterations=100_000, timeout_s=600)
    waker.join()
    assert _gone(pid)


def test_precision_changes_the_numbers(session: HarnessSession, tmp_path: Path) -> None:
    files = models.convolutional(tmp_path)
    outputs = {}
    for precision in ("fp32", "bf16"):
        session.load(str(files.param), str(files.bin), LoadOptions.for_precision(precision, threads=1))
        outputs[precision] = session.infer({"in": _INPUT}).outputs["logits"]
    assert 1e-4 < _relative_l2(outputs["bf16"], outputs["fp32"]) < 0.05


def test_layer_times_name_every_layer(loaded: HarnessSession) -> None:
    report = loaded.infer({"in": _INPUT}, iterations=2, layer_times=True)
    assert [layer.name for layer in report.layers] == ["conv1", "split", "conv2", "pool", "fc"]
    assert all(layer.calls == 2 for layer in report.layers)
    assert sum(layer.total_ns for layer in report.layers) <= sum(report.latencies_ns)


def test_a_chain_of_20000_layers(session: HarnessSession, tmp_path: Path) -> None:
    files = models.chain(tmp_path, 20000)
    assert session.load(str(files.param), str(files.bin)).depth == 20001
    out = session.infer({"b0": np.array([-1, 0, 1, 2], np.float32)}).outputs["b20000"]
    assert out.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("inputs", "outputs", "match"),
    [
        ({"in": _INPUT}, ["nowhere"], "no blob 'nowhere'"),
        ({"other": _INPUT}, [], "no blob 'other'"),
        ({}, [], "'in' is needed and not given"),
        ({"in": _INPUT[:, :20]}, [], "has shape 3x20x24, the model takes 3x24x24"),
        ({"in": _INPUT[0]}, [], "has shape 24x24"),
        ({"in": _INPUT}, ["logits", "logits"], "twice"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_and_the_session_goes_on(
    loaded: HarnessSession,
    inputs: dict[str, np.ndarray],
    outputs: list[str],
    match: str,  # type: ignore[type-arg]
) -> None:
    with pytest.raises(HarnessError, match=match):
        loaded.infer(inputs, outputs)
    assert loaded.infer({"in": _INPUT}).outputs["logits"].shape == (10,)


def test_infer_before_load(session: HarnessSession) -> None:
    with pytest.raises(HarnessError, match="no model is loaded"):
        session.infer({"in": _INPUT})


@pytest.mark.parametrize("trouble", ["no param", "no bin", "not a param", "unknown layer", "short bin", "long bin"])
def test_a_model_that_does_not_load(session: HarnessSession, tmp_path: Path, trouble: str) -> None:
    files = models.convolutional(tmp_path)
    weights = files.bin.read_bytes()
    match = {"no param": "cannot open", "no bin": "cannot open", "not a param": r"no ncnn \.param"}.get(trouble, "")
    if trouble == "no param":
        files.param.unlink()
    elif trouble == "no bin":
        files.bin.unlink()
    elif trouble == "not a param":
        files.param.write_bytes(os.urandom(2000))
    elif trouble == "unknown layer":
        files.param.write_text(files.param.read_text().replace("Pooling", "TopK"))
        match = "no layer type 'TopK'"
    elif trouble == "short bin":
        files.bin.write_bytes(weights[: len(weights) // 2])
        match = "is truncated"
    else:
        files.bin.write_bytes(weights + b"more")
        match = "4 bytes at the end"
    with pytest.raises(HarnessError, match=match):
        session.load(str(files.param), str(files.bin))
    assert session.info().abi == _ABI


def test_a_vulkan_wish_is_refused_by_a_build_without_it(session: HarnessSession, tmp_path: Path) -> None:
    files = models.convolutional(tmp_path)
    with pytest.raises(SetupError, match="without Vulkan") as caught:
        session.load(str(files.param), str(files.bin), LoadOptions(vulkan=True))
    assert "harness build --vulkan" in caught.value.hint
    listed = session.gpus()
    assert (listed.vulkan, listed.gpus) == (False, ())
    assert session.info().vulkan is False


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_signal_is_a_typed_error(loaded: HarnessSession, number: signal.Signals) -> None:
    os.kill(_pid(loaded), number)
    with pytest.raises(HarnessCrashError) as caught:
        loaded.infer({"in": _INPUT})
    assert caught.value.signal == number
    with pytest.raises(HarnessError, match="session is over"):
        loaded.info()


def test_a_hung_harness_is_ended(loaded: HarnessSession) -> None:
    pid = _pid(loaded)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(HarnessTimeoutError, match=r"INFER within 0\.5 s"):
        loaded.infer({"in": _INPUT}, timeout_s=0.5)
    assert _gone(pid)


def test_a_slow_inference_outlives_the_idle_timeout(executable: Path, tmp_path: Path) -> None:
    files = models.slow(tmp_path)
    idle_s = 4
    with HarnessSession.connect_local(executable, idle_timeout_s=idle_s) as session:
        session.load(str(files.param), str(files.bin), LoadOptions(threads=1))
        once_s = min(session.infer({"b0": _SLOW_INPUT}, iterations=5).latencies_ns) / 1e9  # whatever else runs here
        iterations, took_s = int(2 * idle_s / once_s) + 1, 0.0
        while took_s <= idle_s:  # each was slower when it was timed than it is now
            report = session.infer({"b0": _SLOW_INPUT}, iterations=iterations, timeout_s=600)
            took_s = sum(report.latencies_ns) / 1e9
            iterations *= 2
    assert took_s > idle_s


def test_idle_too_long_it_leaves(executable: Path) -> None:
    with HarnessSession.connect_local(executable, idle_timeout_s=5) as session:
        assert session._running is not None
        process = session._running.process
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() == 0
        with pytest.raises(HarnessError, match="ended with exit code 0"):
            session.info()


def test_closing_leaves_nothing_running(executable: Path) -> None:
    with HarnessSession.connect_local(executable) as session:
        pid = _pid(session)
        assert not _gone(pid)
    assert _gone(pid)
    session.close()


def test_a_wrong_program_is_no_harness(tmp_path: Path) -> None:
    liar = tmp_path / "liar"
    liar.write_text("#!/bin/sh\necho hello\nsleep 60\n")
    liar.chmod(0o755)
    with pytest.raises(ProtocolError, match="began with 'hello'"):
        HarnessSession.connect_local(liar).__enter__()
    liar.write_text("#!/bin/sh\necho mobilekit-harness ready 9 $3\nsleep 60\n")
    with pytest.raises(ProtocolError, match="version 9"):
        HarnessSession.connect_local(liar).__enter__()
    liar.write_text("#!/bin/sh\nsleep 60\n")
    with pytest.raises(HarnessTimeoutError):
        HarnessSession.connect_local(liar, start_timeout_s=0.3).__enter__()
    liar.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    with pytest.raises(HarnessError, match="exit code 3"):
        HarnessSession.connect_local(liar).__enter__()
    with pytest.raises(HarnessError, match="cannot start"):
        HarnessSession.connect_local(tmp_path / "absent").__enter__()


# What a stranger or a broken client may send: a bare socket against a real harness.

_TOKEN = "0123456789abcdef" * 2


@contextmanager
def _server(executable: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    name = f"mobilekit-test-{secrets.token_hex(8)}"
    process = subprocess.Popen(
        [executable, "serve", "--socket", name, "--idle-timeout-s", "20", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "MOBILEKIT_HARNESS_TOKEN": _TOKEN},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"mobilekit-harness ready {protocol.VERSION} {name}\n"
        yield process, name
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _connect(name: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    try:
        connection.connect(f"\0{name}")
    except OSError:
        connection.close()
        raise
    return connection


def _read(connection: socket.socket) -> tuple[int, bytes]:
    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = connection.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    header = protocol.decode_header(exactly(16))
    return header.type, exactly(header.length)


def _greet(connection: socket.socket, token: str = _TOKEN) -> tuple[int, bytes]:
    connection.sendall(protocol.encode_frame(MessageType.HELLO, protocol.encode_hello(token, "test")))
    return _read(connection)


def _code(reply: tuple[int, bytes]) -> int:
    assert reply[0] == MessageType.ERROR
    return protocol.decode_error(reply[1]).code


def test_a_stranger_gets_nothing_and_the_owner_still_gets_in(executable: Path) -> None:
    with _server(executable) as (_, name):
        for attempt in ("0" * 32, "", _TOKEN + "0", _TOKEN[:-1]):
            with _connect(name) as stranger:
                assert _code(_greet(stranger, attempt)) == ErrorCode.TOKEN
        with _connect(name) as stranger:  # not even INFO without the token
            stranger.sendall(protocol.encode_frame(MessageType.INFO))
            assert _code(_read(stranger)) == ErrorCode.TOKEN
        with _connect(name) as owner:
            assert _greet(owner)[0] == MessageType.HELLO_OK


def test_guessing_ends_the_server(executable: Path) -> None:
    with _server(executable) as (process, name):
        for _ in range(16):
            with _connect(name) as stranger:
                assert _code(_greet(stranger, "0" * 32)) == ErrorCode.TOKEN
        assert process.wait(60) == 0


def test_a_second_client_is_turned_away(executable: Path) -> None:
    with _server(executable) as (_, name), _connect(name) as owner:
        assert _greet(owner)[0] == MessageType.HELLO_OK
        with pytest.raises(ConnectionRefusedError):
            _connect(name)
        owner.sendall(protocol.encode_frame(MessageType.INFO))
        assert _read(owner)[0] == MessageType.INFO_OK


def test_it_leaves_when_the_client_leaves(executable: Path) -> None:
    with _server(executable) as (process, name):
        with _connect(name) as owner:
            _greet(owner)
        assert process.wait(60) == 0


def test_it_leaves_when_the_client_leaves_during_an_inference(executable: Path, tmp_path: Path) -> None:
    files = models.slow(tmp_path)
    with _server(executable) as (process, name):
        with _connect(name) as owner:
            owner.settimeout(60)
            _greet(owner)
            load = protocol.encode_load(str(files.param), str(files.bin), LoadOptions(threads=1))
            owner.sendall(protocol.encode_frame(MessageType.LOAD, load))
            assert _read(owner)[0] == MessageType.LOAD_OK
            request = protocol.encode_infer({"b0": _SLOW_INPUT}, [], iterations=1000)
            owner.sendall(protocol.encode_frame(MessageType.INFER, request))
            time.sleep(0.3)
        assert process.wait(60) == 0


def test_an_oversized_frame_is_refused_before_memory_is_taken(executable: Path) -> None:
    with _server(executable, "--max-frame-bytes", "100000") as (process, name), _connect(name) as owner:
        _greet(owner)
        owner.sendall(struct.pack("<4sHHQ", b"MKHP", protocol.VERSION, MessageType.INFER, 1 << 62))
        assert _code(_read(owner)) == ErrorCode.FRAME
        assert process.wait(60) == 1


def test_a_long_frame_that_never_comes_takes_no_memory(executable: Path) -> None:
    with _server(executable) as (process, name), _connect(name) as owner:
        _greet(owner)
        owner.sendall(struct.pack("<4sHHQ", b"MKHP", protocol.VERSION, MessageType.INFER, 500 << 20) + bytes(1000))
        time.sleep(0.3)
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert resident_kb < 64 << 10


def test_another_version_is_told_ours(executable: Path) -> None:
    with _server(executable) as (_, name), _connect(name) as owner:
        owner.sendall(struct.pack("<4sHHQ", b"MKHP", 7, MessageType.HELLO, 0))
        assert _code(_read(owner)) == ErrorCode.VERSION


def test_bytes_may_come_one_at_a_time(executable: Path) -> None:
    with _server(executable) as (_, name), _connect(name) as owner:
        for byte in protocol.encode_frame(MessageType.HELLO, protocol.encode_hello(_TOKEN, "slow")):
            owner.sendall(bytes([byte]))
        assert _read(owner)[0] == MessageType.HELLO_OK


def test_two_requests_may_come_at_once(executable: Path) -> None:
    with _server(executable) as (_, name), _connect(name) as owner:
        _greet(owner)
        owner.sendall(protocol.encode_frame(MessageType.INFO) * 2)
        assert [_read(owner)[0] for _ in range(2)] == [MessageType.INFO_OK] * 2


@settings(max_examples=60)
@given(
    st.sampled_from(list(MessageType)),
    st.one_of(st.binary(max_size=200), st.integers(0, 10**6).map(lambda n: struct.pack("<QQ", n, 1 << 63))),
    st.booleans(),
)
def test_garbage_after_the_greeting_never_crashes_it(
    executable: Path, kind: MessageType, body: bytes, lie: bool
) -> None:
    with _server(executable) as (process, name), _connect(name) as owner:
        assert _greet(owner)[0] == MessageType.HELLO_OK
        frame = bytearray(protocol.encode_frame(kind, body))
        if lie and body:
            frame[8] ^= 1
        owner.sendall(frame)
        owner.shutdown(socket.SHUT_WR)
        try:
            while True:
                _read(owner)
        except (EOFError, ConnectionResetError):
            pass
        assert process.wait(60) in (0, 1)


def test_serve_refuses_to_start_without_a_good_token(executable: Path, tmp_path: Path) -> None:
    def start(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if k != "MOBILEKIT_HARNESS_TOKEN"}
        command = [
            executable,
            "serve",
            "--socket",
            f"mobilekit-{secrets.token_hex(8)}",
            "--idle-timeout-s",
            "1",
            *options,
        ]
        return subprocess.run(command, capture_output=True, text=True, env={**clean, **env}, timeout=30, check=False)

    assert start().returncode == 4
    assert "token" in start(MOBILEKIT_HARNESS_TOKEN="short").stderr
    assert start("--token-file", str(tmp_path / "absent")).returncode == 5
    token_file = tmp_path / "token"
    token_file.write_text(_TOKEN + "\n")
    done = start("--token-file", str(token_file))
    assert done.returncode == 0
    assert not token_file.exists()
    assert _TOKEN not in done.stdout + done.stderr


def test_ctrl_c_during_an_inference_leaves_nothing(executable: Path, tmp_path: Path) -> None:
    files = models.slow(tmp_path)
    with pytest.raises(KeyboardInterrupt), HarnessSession.connect_local(executable) as session:
        pid = _pid(session)
        session.load(str(files.param), str(files.bin), LoadOptions(threads=1))
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        session.infer({"b0": _SLOW_INPUT}, iterations=100_000, timeout_s=600)
    timer.join()
    assert _gone(pid)


@pytest.mark.skipif(_ABI == "arm64-v8a", reason="this machine runs arm64 itself")
@pytest.mark.parametrize("cpu", ["cortex-a53", "max"])
def test_arm64_under_qemu_computes_the_same(tmp_path: Path, cpu: str) -> None:
    qemu = shutil.which("qemu-aarch64-static")
    if qemu is None:
        pytest.skip("no qemu-aarch64-static here")
    files = models.convolutional(tmp_path)
    expected = _wheel(files, ["branch/0:0", "logits"])
    arm = find_harness("arm64-v8a", static_only=True)
    with HarnessSession.connect_local(arm, emulator=[qemu, "-cpu", cpu]) as session:
        info = session.info()
        assert info.abi == "arm64-v8a"
        assert ("sve2" in info.cpu_features) == (cpu == "max")
        errors = {}
        for precision in ("fp32", "fp16"):
            session.load(str(files.param), str(files.bin), LoadOptions.for_precision(precision, threads=1))
            report = session.infer({"in": _INPUT}, ["branch/0:0", "logits"])
            errors[precision] = max(_relative_l2(report.outputs[n], v) for n, v in expected.items())
    assert errors["fp32"] < 1e-5
    # A CPU with fp16 arithmetic computes visibly less exactly; one without stores some weights in fp16 at most.
    assert errors["fp16"] < 0.05
    assert (errors["fp16"] > 1e-3) == (cpu == "max")
