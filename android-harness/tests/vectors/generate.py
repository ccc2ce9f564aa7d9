"""Write the protocol's test vectors: `python android-harness/tests/vectors/generate.py`.

Each ``.hex`` file is one whole frame, 32 bytes a line. The C++ tests decode them and encode the same values to the
same bytes; the Python tests do the same from the other side.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from mobilekit.device.harness import protocol
from mobilekit.device.harness.pixels import PixelRequest, encode_pixels
from mobilekit.device.harness.protocol import LoadOptions, MessageType

__all__ = ["vectors"]


def _text(value: str) -> bytes:
    return struct.pack("<I", len(value.encode())) + value.encode()


def vectors() -> dict[str, bytes]:
    """File stem -> frame."""
    inputs = {
        "serving_default_input:0": np.arange(6, dtype=np.float32).reshape(1, 2, 3) / 4 - 0.5,
        "ids": np.array([1, -2, 3], dtype=np.int32),
    }
    infer = protocol.encode_infer(inputs, ["logits", "größe/0:0"], warmup=2, iterations=5, layer_times=True)
    load = protocol.encode_load(
        "/data/local/tmp/m.param", "/data/local/tmp/m.bin", LoadOptions.for_precision("fp16", threads=4, cluster="big")
    )
    pixels = encode_pixels(
        PixelRequest(
            pixels=np.arange(18, dtype=np.uint8).reshape(2, 3, 3),
            resized=(4, 5),
            size=(6, 4),
            place=(1, -1),
            order="BGR",
            pad=114.0,
            mean=(1.0, 2.0, 3.0),
            norm=(0.5, 0.25, 0.125),
        )
    )
    output = _text("logits") + struct.pack("<BB2IQ2f", 1, 2, 1, 2, 8, 0.25, -8.0)
    return {
        "hello": protocol.encode_frame(
            MessageType.HELLO, protocol.encode_hello("0123456789abcdef0123456789abcdef", "mobilekit 0.1.0")
        ),
        "hello_ok": protocol.encode_frame(
            MessageType.HELLO_OK,
            _text("0.1.0")
            + _text("1.0.20261020")
            + _text("arm64-v8a")
            + struct.pack("<QI", 1 << 29, 2)
            + _text("MkTopK")
            + _text("MkNonZero"),
        ),
        "info": protocol.encode_frame(MessageType.INFO),
        "load": protocol.encode_frame(MessageType.LOAD, load),
        "infer": protocol.encode_frame(MessageType.INFER, infer),
        "infer_ok": protocol.encode_frame(
            MessageType.INFER_OK, _text('{"latencies_ns":[1,2]}') + struct.pack("<I", 1) + output
        ),
        "pixels": protocol.encode_frame(MessageType.PIXELS, pixels),
        "error": protocol.encode_frame(MessageType.ERROR, struct.pack("<I", 4) + _text("the model has no blob 'x'")),
    }


def _main() -> None:
    for stem, frame in vectors().items():
        text = frame.hex()
        lines = [text[i : i + 64] for i in range(0, len(text), 64)]
        Path(__file__).with_name(f"{stem}.hex").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    _main()
