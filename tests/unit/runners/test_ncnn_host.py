"""The ncnn wheel in a child process: right outputs, typed errors."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from mobilekit import bundle
from mobilekit.errors import BundleError, ChildCrashError, ChildTimeoutError, UsageError
from mobilekit.importers.onnx import load
from mobilekit.passes import prepare
from mobilekit.runners.base import RunOptions
from mobilekit.runners.ncnn_host import NcnnHostRunner, start_process
from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget
from tests.models import conv_classifier, of_nodes, save


def export(proto: object, root: Path) -> bundle.Manifest:
    graph = prepare(load(save(proto, root / "m.onnx")), {}, simplify=False)
    artifact = NcnnTarget().build(graph, root / "ncnn", NcnnOptions())

    def infos(values: list) -> tuple[bundle.TensorInfo, ...]:
        return tuple(bundle.TensorInfo(name=v.name, dtype=v.dtype, shape=v.shape) for v in values)

    model = bundle.ModelInfo(id="m", file="m.onnx", sha256="0" * 64, opset=graph.opset)
    return bundle.Manifest(
        mobilekit_version="0", model=model, inputs=infos(graph.inputs), outputs=infos(graph.outputs), ncnn=artifact
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundle")


@pytest.fixture(scope="module")
def manifest(root: Path) -> bundle.Manifest:
    return export(conv_classifier(), root)


IMAGE = np.random.default_rng(1).random((1, 3, 8, 8), np.float32)


def test_runs_and_times(root: Path, manifest: bundle.Manifest) -> None:
    before = IMAGE.copy()
    with NcnnHostRunner(root, manifest) as runner:
        result = runner.run({"serving_default_input:0": IMAGE}, RunOptions(warmup=1, iterations=3))
    (scores,) = result.outputs.values()
    assert scores.shape == (1, 4)
    np.testing.assert_allclose(scores.sum(), 1, rtol=1e-5)
    assert len(result.latencies_ns) == 3
    assert min(result.latencies_ns) > 0
    assert result.load_ns > 0
    np.testing.assert_array_equal(IMAGE, before)


def test_says_who_computed(root: Path, manifest: bundle.Manifest) -> None:
    info = NcnnHostRunner(root, manifest).info()
    assert info.name == "ncnn on host"
    assert info.version[0].isdigit()
    assert not info.virtual


def test_many_iterations_give_what_one_gives(tmp_path: Path) -> None:
    proto = of_nodes([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 5]}, {"y": [1, 5]})
    runner = NcnnHostRunner(tmp_path, export(proto, tmp_path))
    x = np.array([[-1, 2, -3, 4, -5]], np.float32)
    once = runner.run({"x": x}, RunOptions()).outputs["y"]
    often = runner.run({"x": x}, RunOptions(warmup=2, iterations=3)).outputs["y"]
    np.testing.assert_array_equal(once, [[0, 2, 0, 4, 0]])
    np.testing.assert_array_equal(often, once)


def test_a_deep_chain_does_not_overflow_the_stack(tmp_path: Path) -> None:
    count = 12_000
    names = ["x", *(f"v{i}" for i in range(count - 1)), "y"]
    ops = [helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)]
    manifest = export(of_nodes(ops, {"x": [1, 3]}, {"y": [1, 3]}), tmp_path)
    assert manifest.ncnn is not None
    assert manifest.ncnn.depth == count + 1
    result = NcnnHostRunner(tmp_path, manifest).run({"x": np.ones((1, 3), np.float32)}, RunOptions())
    np.testing.assert_array_equal(result.outputs["y"], np.ones((1, 3)))


@pytest.mark.parametrize("inputs", [{}, {"other": IMAGE}, {"serving_default_input:0": IMAGE, "more": IMAGE}])
def test_inputs_have_to_be_the_models(root: Path, manifest: bundle.Manifest, inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(UsageError, match="serving_default_input:0"):
        NcnnHostRunner(root, manifest).run(inputs, RunOptions())


def test_a_misshapen_input(root: Path, manifest: bundle.Manifest) -> None:
    with pytest.raises(UsageError, match="shape"):
        NcnnHostRunner(root, manifest).run({"serving_default_input:0": IMAGE[:, :2]}, RunOptions())


def test_a_bundle_without_ncnn(root: Path, manifest: bundle.Manifest) -> None:
    with pytest.raises(UsageError, match="no ncnn model"):
        NcnnHostRunner(root, replace(manifest, ncnn=None))


@pytest.mark.parametrize("damage", ["param", "missing"])
def test_files_that_ncnn_does_not_load(tmp_path: Path, damage: str) -> None:
    manifest = export(conv_classifier(), tmp_path)
    param = tmp_path / "ncnn" / "model.param"
    if damage == "missing":
        param.unlink()
    else:
        param.write_text("not a param file")
    with pytest.raises(BundleError, match=r"model\.param"):
        NcnnHostRunner(tmp_path, manifest).run({"serving_default_input:0": IMAGE}, RunOptions())


def test_a_truncated_bin(tmp_path: Path) -> None:
    manifest = export(conv_classifier(), tmp_path)
    weights = tmp_path / "ncnn" / "model.bin"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(BundleError, match=r"model\.bin"):
        NcnnHostRunner(tmp_path, manifest).run({"serving_default_input:0": IMAGE}, RunOptions())


def _children() -> set[int]:
    """This process's children that compute for it."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid() and b"mobilekit-scratch-child-" in (folder / "cmdline").read_bytes():
                    found.add(int(folder.name))
    return found


def test_the_model_is_loaded_once_for_many_inputs(root: Path, manifest: bundle.Manifest) -> None:
    before = _children()
    with NcnnHostRunner(root, manifest) as runner:
        first = runner.run({"serving_default_input:0": IMAGE}, RunOptions())
        (process,) = _children() - before
        second = runner.run({"serving_default_input:0": IMAGE[..., ::-1].copy()}, RunOptions(iterations=2))
        assert _children() - before == {process}
        assert second.load_ns == first.load_ns
        with pytest.raises(UsageError):
            runner.run({}, RunOptions())
        assert _children() - before == {process}
        (one,), (other,) = first.outputs.values(), second.outputs.values()
        assert not np.allclose(one, other)
        runner.run({"serving_default_input:0": IMAGE}, RunOptions(threads=1))  # other settings: loaded again
        (again,) = _children() - before
        assert again != process
    assert _children() == before


def test_a_process_that_waits_is_used_for_the_first_settings_and_ended(
    root: Path, manifest: bundle.Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    before, inputs = _children(), {"serving_default_input:0": IMAGE}
    started = start_process(timed=False)
    (waiting,) = _children() - before
    assert b"OMP_WAIT_POLICY=passive" in Path(f"/proc/{waiting}/environ").read_bytes().split(b"\0")
    with NcnnHostRunner(root, manifest, timed=False, started=started) as runner:
        first = runner.run(inputs, RunOptions()).outputs
        assert _children() - before == {waiting}
        second = runner.run(inputs, RunOptions(threads=1)).outputs
        assert _children() - before != {waiting}
    for name, array in first.items():
        np.testing.assert_allclose(array, second[name], rtol=1e-5)
    assert _children() == before
    with NcnnHostRunner(root, manifest, started=start_process()):
        pass
    assert _children() == before


def test_after_a_crash_or_a_hang_the_next_run_has_a_fresh_process(root: Path, manifest: bundle.Manifest) -> None:
    inputs = {"serving_default_input:0": IMAGE}
    before = _children()
    with NcnnHostRunner(root, manifest) as runner:
        expected = runner.run(inputs, RunOptions()).outputs
        (process,) = _children() - before
        os.kill(process, signal.SIGSEGV)
        with pytest.raises(ChildCrashError, match="SIGSEGV"):
            runner.run(inputs, RunOptions())
        for name, array in runner.run(inputs, RunOptions()).outputs.items():
            np.testing.assert_array_equal(array, expected[name])
        (process,) = _children() - before
        os.kill(process, signal.SIGSTOP)
        with pytest.raises(ChildTimeoutError):
            runner.run(inputs, RunOptions(timeout_s=0.5))
        for name, array in runner.run(inputs, RunOptions()).outputs.items():
            np.testing.assert_array_equal(array, expected[name])
    assert _children() == before
