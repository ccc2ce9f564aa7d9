from __future__ import annotations

import contextlib
import importlib.util
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilekit.device.harness import protocol
from mobilekit.device.harness.protocol import ErrorCode, LoadOptions, MessageType
from mobilekit.device.harness.reports import HarnessInfo, InferReport, parse
from mobilekit.errors import ProtocolError, UsageError
from mobilekit.paths import data_dir

_VECTORS = data_dir("android-harness") / "tests" / "vectors"
_DECODERS = [protocol.decode_hello_ok, protocol.decode_json, protocol.decode_infer_ok, protocol.decode_error]


def _body(stem: str, kind: MessageType) -> bytes:
    frame = bytes.fromhex((_VECTORS / f"{stem}.hex").read_text())
    header = protocol.decode_header(frame[:16])
    assert (header.type, header.length) == (kind, len(frame) - 16)
    return frame[16:]


def test_the_vectors_are_what_the_program_makes() -> None:
    spec = importlib.util.spec_from_file_location("mobilekit_vectors", _VECTORS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.vectors()
    assert set(made) == {path.stem for path in _VECTORS.glob("*.hex")}
    for stem, frame in made.items():
        assert bytes.fromhex((_VECTORS / f"{stem}.hex").read_text()) == frame, stem


def test_reads_the_vectors_of_the_replies() -> None:
    hello = protocol.decode_hello_ok(_body("hello_ok", MessageType.HELLO_OK))
    assert hello == protocol.ServerHello("0.1.0", "1.0.20261020", "arm64-v8a", 1 << 29, ("MkTopK", "MkNonZero"))
    report, outputs = protocol.decode_infer_ok(_body("infer_ok", MessageType.INFER_OK))
    assert report == {"latencies_ns": [1, 2]}
    assert outputs["logits"].tolist() == [[0.25, -8.0]]
    error = protocol.decode_error(_body("error", MessageType.ERROR))
    assert (error.code, error.message) == (ErrorCode.REQUEST, "the model has no blob 'x'")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"XXXX" + bytes(12), "not a mobilekit frame"),
        (struct.pack("<4sHHQ", b"MKHP", 1, 1, 0), "version 1"),
        (struct.pack("<4sHHQ", b"MKHP", 2, 1, 1 << 40), "the limit"),
        (b"MKHP", "4 bytes"),
    ],
)
def test_a_bad_header_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(ProtocolError, match=match):
        protocol.decode_header(data)


@given(st.sampled_from(_DECODERS), st.binary(max_size=300))
def test_random_bytes_decode_or_raise_protocol_error(decode, data: bytes) -> None:  # type: ignore[no-untyped-def]
    with contextlib.suppress(ProtocolError):
        decode(data)


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_changed_reply_decodes_or_raises_protocol_error(at: int, value: int) -> None:
    body = bytearray(_body("infer_ok", MessageType.INFER_OK))
    body[at % len(body)] = value
    with contextlib.suppress(ProtocolError):
        protocol.decode_infer_ok(bytes(body))


def test_every_truncated_reply_is_refused() -> None:
    body = _body("infer_ok", MessageType.INFER_OK)
    for cut in range(len(body)):
        with pytest.raises(ProtocolError):
            protocol.decode_infer_ok(body[:cut])
    with pytest.raises(ProtocolError, match="left over"):
        protocol.decode_infer_ok(body + b"\0")


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from(["float32", "int32"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40),
)
def test_a_tensor_survives_the_wire(shape: list[int], dtype: str, name: str) -> None:
    array = np.random.default_rng(0).integers(-9, 9, shape).astype(dtype)
    request = protocol.encode_infer({name: array}, [])
    # A reply has its tensors in the same form: after the 12 fixed bytes, with "{}" as the report.
    reply = struct.pack("<I", 2) + b"{}" + request[12:-4]
    back = protocol.decode_infer_ok(reply)[1][name]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_a_transposed_array_goes_in_c_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert protocol.encode_infer({"x": array.T}, []) == protocol.encode_infer({"x": array.T.copy()}, [])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), np.float64),
        np.zeros((1, 1, 1, 1, 1), np.float32),
        np.zeros((), np.float32),
        np.zeros((0, 2), np.float32),
    ],
)
def test_an_input_that_ncnn_cannot_hold_is_refused(array: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match="'x'"):
        protocol.encode_infer({"x": array}, [])


@pytest.mark.parametrize(
    "make",
    [
        lambda: protocol.encode_infer({}, [], iterations=0),
        lambda: protocol.encode_infer({}, [], warmup=-1),
        lambda: protocol.encode_infer({}, ["a\0b"]),
        lambda: protocol.encode_load("p", "b", LoadOptions(threads=999)),
        lambda: protocol.encode_load("p", "b", LoadOptions(cluster="middle")),  # type: ignore[arg-type]
        lambda: LoadOptions.for_precision("fp64"),
    ],
)
def test_bad_options_are_usage_errors(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError):
        make()


def test_precisions_differ_in_their_flags() -> None:
    flags = {p: LoadOptions.for_precision(p).flags() for p in ("fp32", "fp16", "bf16")}
    assert flags == {"fp32": 0b1_1110_0000, "fp16": 0b1_1110_0111, "bf16": 0b1_1111_1000}


@pytest.mark.parametrize("report", [{}, {"harness_version": 1}, {"cpu_features": "neon"}])
def test_a_report_with_missing_fields_is_refused(report: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="not valid"):
        parse(HarnessInfo, report)


def test_a_report_from_a_newer_harness_may_say_more() -> None:
    report = {
        "outputs": {},
        "warmup": 0,
        "warmup_ns": 0,
        "latencies_ns": [5],
        "peak_blob_bytes": 1,
        "peak_workspace_bytes": 2,
        "peak_total_bytes": 3,
        "news": json.loads("[1]"),
    }
    assert parse(InferReport, report).latencies_ns == (5,)
