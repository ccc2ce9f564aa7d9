"""What an entry may say, which model a name means, and the entries that ship."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from pydantic import ValidationError
from typer.testing import CliRunner

from mobilekit import zoo
from mobilekit.cli.main import make_app
from mobilekit.errors import UsageError
from mobilekit.paths import data_dir
from mobilekit.zoo import PypiSource, ZooEntry

SHA = "0" * 64
SHIPPED = [
    "aecmos",
    "arabic_names_decoder",
    "arabic_names_encoder",
    "asr_gigaam_v2",
    "asr_gigaam_v3",
    "asr_kaldi",
    "asr_nemo128_conv",
    "asr_nemo80",
    "asr_resample_44_16",
    "asr_resample_8_16",
    "asr_wespeaker",
    "asr_whisper128_conv",
    "asr_whisper80",
    "attacut_c",
    "attacut_sc",
    "basic_pitch",
    "captcha_crnn",
    "ddddocr_common",
    "ddddocr_common_old",
    "deepcut",
    "dnsmos_p808",
    "eeg_seizure",
    "eeg_spindles",
    "efficientnet_lite0",
    "lac",
    "magika",
    "mobilenet_v2",
    "mtcnn_onet",
    "mtcnn_pnet",
    "mtcnn_rnet",
    "open_nsfw",
    "oskut_ws",
    "picodet_layout",
    "piper_nakdimon",
    "piper_tashkeel",
    "plcmos",
    "pp_lcnet_orientation",
    "pp_ocr_cls",
    "pp_ocrv4_det",
    "pp_ocrv4_rec",
    "pp_ocrv5_det",
    "pp_ocrv5_rec",
    "pp_ocrv5_textline",
    "pp_ocrv6_det",
    "pp_ocrv6_rec",
    "silero_vad",
    "silero_vad_8k",
    "silero_vad_half",
    "silero_vad_ifless",
    "silero_vad_v6",
    "sudachi_tagger",
    "wakeword_embedding",
    "wakeword_melspectrogram",
    "yolov8n_nudenet",
    "yolox_ddddocr",
]


def toml(**changes: str) -> str:
    lines = {
        "id": '"toy"',
        "title": '"A toy"',
        "license": '"MIT"',
        "source": f'{{ file = "x.onnx", sha256 = "{SHA}" }}',
    }
    return "".join(f"{key} = {value}\n" for key, value in {**lines, **changes}.items())


def pypi(**changes: str) -> str:
    value = {"pypi": "p", "version": "1", "archive": "p-1.whl", "sha256": SHA, "member": "p/m.onnx", **changes}
    return "{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items()) + " }"


def write(folder: Path, text: str) -> None:
    (folder / "toy.toml").write_text(text)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (toml(surprise='"x"'), "surprise"),
        (toml(folder='"/etc"'), "folder"),
        (toml(title="3"), "title"),
        (toml(source=pypi()), "sha256"),
        (toml(sha256=f'"{SHA}"', source=pypi(member="../../etc/passwd")), "member"),
        (toml(sha256=f'"{SHA}"', source=pypi(member="/etc/passwd")), "member"),
        (toml(sha256=f'"{SHA}"', source=pypi(archive="../p-1.whl")), "archive"),
        (toml(sha256=f'"{SHA}"', source=pypi(archive="p-1.exe")), "archive"),
        (toml(sha256=f'"{SHA}"', source=pypi(pypi="https://example.org/p")), "pypi"),
        (toml(source=f'{{ url = "http://example.org/x.onnx", sha256 = "{SHA}" }}'), "url"),
        (toml(source=f'{{ url = "file:///etc/passwd", sha256 = "{SHA}" }}'), "url"),
        (toml(source='{ url = "https://example.org/x.onnx" }'), "sha256"),
        (toml(inputs="{ x = [1, 0] }"), "axis"),
        (toml(prepare='"os:system"'), "prepare"),
        (toml(labels='{ file = "../../secret" }'), "labels"),
        (toml(labels='{ format = "json" }'), "labels"),
        (toml(preprocess="{ std = [0.0] }"), "std"),
        (toml(preprocess="{ mean = [1.0, 2.0] }"), "mean"),
        (toml(preprocess='{ resize = "stretch", resize_to = 5 }'), "resize_to"),
    ],
)
def test_a_bad_entry_is_refused_by_name(zoo_folder: Path, text: str, where: str) -> None:
    write(zoo_folder, text)
    with pytest.raises(UsageError, match=r"toy\.toml") as caught:
        zoo.find_entry("toy")
    assert where in caught.value.hint


@pytest.mark.parametrize(("text", "match"), [("a = = b", "not TOML"), (toml(id='"other"'), "calls itself 'other'")])
def test_a_file_that_is_no_entry(zoo_folder: Path, text: str, match: str) -> None:
    write(zoo_folder, text)
    with pytest.raises(UsageError, match=match):
        zoo.find_entry("toy")


def test_entries_are_frozen() -> None:
    entry = zoo.find_entry("magika")
    with pytest.raises(ValidationError):
        entry.title = "x"  # type: ignore[misc]


def test_an_existing_file_wins_over_an_id(
    zoo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private_cache: Path
) -> None:
    (zoo_folder / "x.onnx").write_bytes(b"from the zoo")
    write(zoo_folder, toml(source='{ file = "x.onnx" }'))
    monkeypatch.chdir(tmp_path)
    assert zoo.resolve("toy").path == zoo_folder / "x.onnx"
    (tmp_path / "toy").mkdir()
    assert zoo.resolve("toy").path == zoo_folder / "x.onnx"
    (tmp_path / "toy").rmdir()
    (tmp_path / "toy").write_bytes(b"a file of that name")
    found = zoo.resolve("toy")
    assert (found.path, found.entry, found.class_names()) == (Path("toy"), None, ())


def test_a_name_that_means_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        zoo.resolve("mobilnet_v2")
    assert "mobilenet_v2" in caught.value.hint
    with pytest.raises(UsageError, match="is a folder"):
        zoo.resolve(str(tmp_path))
    for odd in ("", "../pp_ocr_cls", "/nowhere/at/all.onnx", "labels/page_orientation"):
        with pytest.raises(UsageError):
            zoo.resolve(odd)


def test_a_zoo_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOBILEKIT_ZOO", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match="MOBILEKIT_ZOO"):
        zoo.list_entries()


def test_all_shipped_entries_read() -> None:
    assert [entry.id for entry in zoo.list_entries()] == SHIPPED


@pytest.mark.parametrize("id_", SHIPPED)
def test_shipped_entry(id_: str) -> None:
    """Each says its licence, is pinned to the byte, and prepares pictures for an input that it has."""
    entry: ZooEntry = zoo.find_entry(id_)
    assert isinstance(entry.source, PypiSource)
    assert entry.source.version in entry.source.archive
    assert entry.license
    assert entry.size_bytes
    assert entry.inputs
    if entry.preprocess is not None:
        shape = entry.inputs[entry.preprocess.input]
        assert shape[1 if entry.preprocess.layout == "NCHW" else 3] == 3
    assert (entry.labels is not None) == (entry.task == "classification")
    if entry.labels is not None and entry.labels.file is not None:
        assert (data_dir("model_zoo") / "labels" / entry.labels.file).is_file()


def test_the_demo_picture_is_what_its_program_draws() -> None:
    """The font renderer may differ by a shade from one version to the next, the page may not."""
    scope: dict[str, object] = {"__name__": "make_page"}
    program = zoo.demo_picture().with_name("make_page.py")
    exec(compile(program.read_text(), str(program), "exec"), scope)
    drawn = scope["draw"]()  # type: ignore[operator]
    kept = Image.open(zoo.demo_picture())
    assert drawn.size == kept.size == (640, 480)
    difference = ImageChops.difference(drawn, kept).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert difference == 0


def run(*arguments: str) -> str:
    result = CliRunner().invoke(make_app(), ["zoo", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_list_and_info_on_the_command_line(private_cache: Path) -> None:
    lines = run("list").splitlines()
    assert [line.split()[0] for line in lines[1:]] == SHIPPED
    assert [entry["id"] for entry in json.loads(run("list", "--json"))] == SHIPPED
    text = run("info", "yolov8n_nudenet")
    assert "AGPL-3.0-only" in text
    assert re.search(r"inputs +images:1x3x320x320", text)
    facts = json.loads(run("info", "pp_lcnet_orientation", "--json"))
    assert facts["cached"] is None
    assert facts["preprocess"]["resize_to"] == 256
    assert facts["source"]["sha256"] == zoo.find_entry("pp_lcnet_orientation").source.sha256


def test_fetch_on_the_command_line_prints_paths(zoo_folder: Path, tmp_path: Path, private_cache: Path) -> None:
    (zoo_folder / "x.onnx").write_bytes(b"model")
    write(zoo_folder, toml(source='{ file = "x.onnx" }', license_note='"a note"'))
    result = CliRunner().invoke(make_app(), ["zoo", "fetch", "toy", "-o", str(tmp_path / "out")])
    assert result.stdout == f"{tmp_path / 'out' / 'toy.onnx'}\n"
    assert "toy: licence MIT (a note)" in result.stderr
