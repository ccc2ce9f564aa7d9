"""The sources of our layers as an app gets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobilekit.device.harness.layers import copy_layers
from mobilekit.errors import UsageError
from mobilekit.paths import data_dir


def test_the_sources_are_copied_whole_and_again(tmp_path: Path) -> None:
    folder = tmp_path / "app" / "mobilekit_layers"
    files = copy_layers(folder)
    assert {"mobilekit_layers.h", "CMakeLists.txt", "README.md", "src/order.cpp", "sample/main.cpp"} <= set(
        map(str, files)
    )
    for file in files:
        assert (folder / file).read_bytes() == (data_dir("android-harness") / "layers" / file).read_bytes()
    (folder / "src" / "gone.cpp").write_text("of an older version")
    assert copy_layers(folder) == files
    assert not (folder / "src" / "gone.cpp").exists()


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.cpp").write_text("int main() {}")
    with pytest.raises(UsageError, match="other things"):
        copy_layers(tmp_path)
    assert (tmp_path / "mine.cpp").exists()
    with pytest.raises(UsageError):
        copy_layers(tmp_path / "mine.cpp")


def test_what_the_readme_lists_is_what_is_registered() -> None:
    """A layer of the table without code, or code without a line in the table, fails here."""
    folder = data_dir("android-harness") / "layers"
    listed = [
        line.split("`")[1] for line in (folder / "README.md").read_text().splitlines() if line.startswith("| `Mk")
    ]
    source = (folder / "src" / "mobilekit_layers.cpp").read_text()
    assert listed == [line.split('"')[1] for line in source.splitlines() if line.strip().startswith('X("Mk')]
    assert len(listed) == len(set(listed))
