"""TensorRT on another machine, over a real sshd on loopback: the same plan as here, the same sentence without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from mobilekit.bundle import open_bundle
from mobilekit.device.ssh_address import SshAddress
from mobilekit.errors import (
    DeviceStorageError,
    NoDeviceError,
    ProtocolError,
    SetupError,
    UnsupportedModelError,
    UsageError,
)
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.targets.tensorrt import TensorRTOptions
from mobilekit.targets.tensorrt.flavour import FLAVOURS, choose_flavour_there, count_gpus, installed
from mobilekit.targets.tensorrt.host import Gpu, Hello, job_folder
from mobilekit.targets.tensorrt.ssh_host import SshHost
from tests.models import conv_classifier, of_nodes, save
from tests.unit.device.ssh_lab import Sshd, running_sshd, wait_until

rtx = pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]")
no_gpu = pytest.mark.skipif(count_gpus() > 0, reason="for machines without a GPU")

NAME = "serving_default_input:0"


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    server = running_sshd(tmp_path / "server", monkeypatch)
    yield server
    server.stop()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(conv_classifier(side="S"), tmp_path / "it's a folder;\n$(id)" / 'my "model".onnx')


def options(sshd: Sshd | None = None, **more: object) -> ExportOptions:
    on = {"on": sshd.url, "remote_pythons": (sys.executable,)} if sshd is not None else {}
    tensorrt = TensorRTOptions(**{**on, **more})  # type: ignore[arg-type]
    return ExportOptions(targets=("tensorrt",), tensorrt=tensorrt, shapes={NAME: (1, 3, 8, 8)})


def host(sshd: Sshd, *pythons: str) -> SshHost:
    return SshHost(SshAddress.parse(sshd.url), pythons=pythons or (sys.executable,))


@rtx
def test_the_plan_from_there_is_the_plan_from_here(sshd: Sshd, model: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    export_model(model, here, options())
    export_model(model, there, options(sshd))
    for name in ("manifest.json", "tensorrt/model.onnx", "tensorrt/model.plan", "tensorrt/layers.json"):
        assert (there / name).read_bytes() == (here / name).read_bytes(), name
    assert open_bundle(there).manifest.tensorrt.gpu == ""
    assert wait_until(lambda: sshd.rooms() == [])
    assert wait_until(lambda: not sshd.running()), sshd.running()


@rtx
def test_what_the_parser_there_does_not_take_is_listed(sshd: Sshd, tmp_path: Path) -> None:
    node = helper.make_node("Det", ["x"], ["y"], name="/det")
    model = save(of_nodes([node], {"x": (4, 4)}, {"y": ()}), tmp_path / "odd.onnx")
    wanted = replace(options(sshd), shapes={})
    with pytest.raises(UnsupportedModelError) as caught:
        export_model(model, tmp_path / "out", wanted)
    assert [finding.op for finding in caught.value.findings] == ["Det"]
    assert not (tmp_path / "out").exists()


@rtx
@no_gpu
def test_a_run_there_says_that_there_is_no_gpu(sshd: Sshd, model: Path, tmp_path: Path) -> None:
    export_model(model, tmp_path / "out", options())
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 8, 8), np.float32))
    arguments = {"module": "tensorrt_rtx", "plan": "model.plan", "samples": [{NAME: "x.npy"}]}
    files = {"model.plan": tmp_path / "out" / "tensorrt" / "model.plan", "x.npy": tmp_path / "x.npy"}
    with host(sshd) as there, job_folder("run", arguments, files) as folder:
        assert there.hello().gpus == ()
        for _ in range(2):
            with pytest.raises(NoDeviceError, match=r"^ssh://the-box: this machine has no NVIDIA driver") as caught:
                there.perform(folder, what="the plan", timeout_s=60)
            assert caught.value.exit_code == 4


@rtx
@no_gpu
def test_validate_on_a_machine_without_a_gpu_is_one_sentence(sshd: Sshd, model: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "out"
    export_model(model, bundle, options(sshd))
    command = [sys.executable, "-m", "mobilekit", "validate", str(bundle), "--target", "tensorrt", "--on", sshd.url]
    done = subprocess.run(
        [*command, "--remote-python", sys.executable], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 4, done.stderr
    assert "ssh://the-box: this machine has no NVIDIA driver" in done.stderr
    assert "Traceback" not in done.stderr
    for more in (["--device", "prepared"], ["--device", "emulator-5554"]):
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2, done.stderr
    with pytest.raises(UsageError, match="no host name"):
        validate_bundle(bundle, None, ValidateOptions(on="ssh://-oProxyCommand=id"))


@rtx
@no_gpu
@pytest.mark.parametrize("command", [["run", "--input", "x.npy"], ["reference", "record", "--provider", "tensorrt"]])
def test_others_that_run_a_plan_there_say_so_too(sshd: Sshd, model: Path, tmp_path: Path, command: list[str]) -> None:
    bundle = tmp_path / "out"
    export_model(model, bundle, options())
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 8, 8), np.float32))
    there = ["--on", sshd.url, "--remote-python", sys.executable, "-o", str(tmp_path / "written")]
    done = subprocess.run(
        [sys.executable, "-m", "mobilekit", *command, str(bundle), *there],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "ssh://the-box: this machine has no NVIDIA driver" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "written").exists()


def _script(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_what_is_missing_there_is_said_with_a_remedy(sshd: Sshd, tmp_path: Path) -> None:
    old = _script(tmp_path / "bin" / "old", "echo 3.6.9")
    noisy = _script(tmp_path / "bin" / "noisy", f'echo "welcome"; exec "{sys.executable}" "$@"')
    bare = _script(tmp_path / "bin" / "bare", f'exec "{sys.executable}" -I -S "$@"')
    with (
        pytest.raises(SetupError, match="has no Python: tried no-python, /nowhere/python3") as caught,
        host(sshd, "no-python", "/nowhere/python3"),
    ):
        pass
    assert "--remote-python" in caught.value.hint
    with pytest.raises(SetupError, match=r"has no Python: tried .*bin/noisy"), host(sshd, noisy):
        pass
    with pytest.raises(SetupError, match=r"no Python 3\.8 or newer: .*bin/old is 3\.6\.9"), host(sshd, "nothing", old):
        pass
    with pytest.raises(SetupError, match=r"bin/bare .* has no numpy") as caught, host(sshd, old, bare):
        pass
    assert "pip install numpy" in caught.value.hint
    numpy_alone = tmp_path / "only numpy"
    numpy_alone.mkdir()
    for part in ("numpy", "numpy.libs"):
        (numpy_alone / part).symlink_to(Path(np.__file__).parents[1] / part)
    without = _script(tmp_path / "bin" / "without", f'PYTHONPATH="{numpy_alone}" exec "{sys.executable}" -s -S "$@"')
    with pytest.raises(SetupError, match=r"bin/without .* has no TensorRT") as caught, host(sshd, without):
        pass
    assert "pip install tensorrt-rtx" in caught.value.hint
    broken = numpy_alone / "tensorrt_rtx.py"
    broken.write_text("raise ImportError('libcudart.so.13: cannot open')")
    with pytest.raises(SetupError, match=r"cannot load its TensorRT: libcudart\.so\.13"), host(sshd, without):
        pass
    assert wait_until(lambda: sshd.rooms() == [])


@rtx
def test_the_first_python_that_has_all_is_taken(sshd: Sshd, tmp_path: Path) -> None:
    bare = _script(tmp_path / "bin" / "bare", f'exec "{sys.executable}" -I -S "$@"')
    with host(sshd, "no-python", bare, sys.executable) as there:
        assert "rtx" in there.hello().flavours


@pytest.mark.parametrize("python", ["-c", "", "a\nb"])
def test_a_python_that_is_no_program_is_refused(python: str) -> None:
    with pytest.raises(UsageError, match="no program"):
        SshHost(SshAddress("host"), pythons=(python,))


@rtx
def test_a_full_disk_there_is_said(sshd: Sshd, model: Path, tmp_path: Path) -> None:
    folder = sshd.store
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be made here: {done.stderr.strip()}")
    try:
        with pytest.raises(DeviceStorageError, match=r"must be pushed, but it has [0-9.]+ MB free"):
            export_model(model, tmp_path / "out", options(sshd))
        assert not (tmp_path / "out").exists()
        assert wait_until(lambda: sshd.rooms() == [])
    finally:
        subprocess.run(["umount", folder], check=True)


def test_an_export_to_no_address_connects_to_nothing(model: Path, tmp_path: Path) -> None:
    wanted = options(on="ssh://-oProxyCommand=touch${IFS}" + str(tmp_path / "pwned"))
    with pytest.raises(UsageError, match="no host name"):
        export_model(model, tmp_path / "out", wanted)
    assert [path.name for path in tmp_path.iterdir()] == [model.parent.name]


_HELLO = Hello("3.10.12", "1.26.4", "Linux", "aarch64", {"full": "10.3.0"}, {}, (), "", "12.6", "no driver")
_GPU = Gpu(0, "Orin", "8.7", 8 << 30, True)


def test_the_flavour_is_chosen_from_what_is_there() -> None:
    with pytest.raises(SetupError, match="ssh://jetson shows none: no driver"):
        choose_flavour_there(_HELLO, "ssh://jetson")
    with pytest.raises(SetupError, match="ssh://jetson has no TensorRT for RTX"):
        choose_flavour_there(_HELLO, "ssh://jetson", "rtx")
    jetson = replace(_HELLO, gpus=(_GPU,))
    assert choose_flavour_there(jetson, "x") == replace(FLAVOURS["full"], there="10.3.0")
    assert choose_flavour_there(jetson, "x").version() == "10.3.0"
    both = replace(_HELLO, flavours={"full": "10.3.0", "rtx": "1.7"})
    assert choose_flavour_there(both, "x").name == "rtx"
    assert choose_flavour_there(replace(both, gpus=(_GPU,)), "x").name == "full"
    assert choose_flavour_there(replace(both, gpus=(_GPU,)), "x", "rtx").version() == "1.7"


_LIAR = """
import json, os, sys, tempfile
hello = dict.fromkeys(("python", "numpy", "system", "machine", "driver", "cuda", "problem"), "?")
hello.update(protocol=1, gpus=[], flavours={"rtx": {"version": "1.7"}})
room = tempfile.mkdtemp(dir=os.path.dirname(sys.argv[1]))
print(json.dumps({"room": room}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "run" in request:
        answer = {"returncode": 0, "stdout": json.dumps(hello)}
    else:
        os.makedirs(f"{room}/{request['job']}", exist_ok=True)
        for name in ("model.plan", "escaped"):
            open(f"{room}/{request['job']}/{name}", "w").write("liar")
        chosen = open(sys.argv[1]).read()
        answer = json.loads(chosen) if chosen.startswith("{") else {"files": {chosen: 4}}
    print(json.dumps(answer), flush=True)
"""


def test_a_machine_that_lies_writes_nowhere_else(sshd: Sshd, tmp_path: Path) -> None:
    plan, chosen = tmp_path / "user's.plan", tmp_path / "chosen"
    plan.write_bytes(b"mine")
    (tmp_path / "liar.py").write_text(_LIAR)
    python = _script(
        tmp_path / "bin" / "liar",
        f'[ "$1" != -I ] || exec "{sys.executable}" "{tmp_path}/liar.py" "{chosen}"\nexec "{sys.executable}" "$@"',
    )
    arguments = {"module": "tensorrt_rtx", "plan": "model.plan", "samples": []}
    with host(sshd, python) as there:
        for name in ("model.plan", "job.json", "../escaped", "..", "", ".hidden", "a/b", "nul\0", "line\n"):
            chosen.write_text(name)
            with job_folder("run", arguments, {"model.plan": plan}) as folder:
                with pytest.raises(ProtocolError, match="names a file"):
                    there.perform(folder, what="the plan", timeout_s=60)
                assert sorted(path.name for path in folder.iterdir()) == ["job.json", "model.plan"]
                assert not (folder.parent / "escaped").exists()
            assert plan.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"files": {"result.json": 1 << 40}}, "offers result.json"),
        ({"files": {"output0_0.npy": 1 << 60}}, "offers output0_0.npy"),
        ({"files": {f"output0_{index}.npy": 1 << 40 for index in range(9999)}}, "offers"),
        ({"files": {"output0_0.npy": -1}}, "offers output0_0.npy of -1"),
        ({"files": {"result.json": "many"}}, "nothing that makes sense"),
        ({"files": ["result.json"]}, "nothing that makes sense"),
        ({}, "nothing that makes sense"),
    ],
)
def test_a_machine_that_offers_more_than_there_is_room_for(
    sshd: Sshd, tmp_path: Path, answer: dict[str, object], said: str
) -> None:
    (tmp_path / "liar.py").write_text(_LIAR)
    (tmp_path / "chosen").write_text(json.dumps(answer))
    python = _script(
        tmp_path / "bin" / "liar",
        f'[ "$1" != -I ] || exec "{sys.executable}" "{tmp_path}/liar.py" "{tmp_path}/chosen"\n'
        f'exec "{sys.executable}" "$@"',
    )
    with (
        host(sshd, python) as there,
        job_folder("run", {"module": "tensorrt_rtx", "plan": "model.plan", "samples": []}) as folder,
    ):
        with pytest.raises(ProtocolError, match=said):
            there.perform(folder, what="the plan", timeout_s=60)
        assert [path.name for path in folder.iterdir()] == ["job.json"]
