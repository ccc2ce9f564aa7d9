"""Every `mobilekit ...` line in the README, the docs and the help texts is a command line that parses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from mobilekit.cli.main import make_app

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(text: str) -> list[str]:
    """Lines of code blocks, and hints in backquotes, that call us; continuation lines joined."""
    joined = text.replace("\\\n", " ")
    blocks = re.findall(r"```\w*\n(.*?)```", joined, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.strip().removeprefix("$ ") for line in lines if re.match(r"\s*(\$ )?mobilekit ", line)]


def parse(line: str) -> None:
    line = line.split("  #")[0].split(" # ")[0]
    for stop in (" | ", " > ", " && ", "; "):
        line = line.split(stop)[0]
    words = shlex.split(line)[1:]
    if any(word in ("...", "[OPTIONS]") or word.startswith("[") for word in words):
        return
    command = typer.main.get_command(make_app())
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    if words == ["--help"] or words == ["--version"]:
        return
    command.make_context(line, words)


CASES = [(page.relative_to(ROOT), line) for page in PAGES for line in commands(page.read_text())]


@pytest.mark.parametrize(("page", "line"), CASES, ids=[f"{page}: {line}"[:80] for page, line in CASES])
def test_documented_command_lines_parse(page: Path, line: str) -> None:
    parse(line)


def options(command: object, path: tuple[str, ...] = ()) -> list[tuple[str, tuple[str, ...]]]:
    """Each option of each command that is shown, with all its spellings."""
    found = []
    for name, inner in getattr(command, "commands", {}).items():
        found += options(inner, (*path, name))
    for param in getattr(command, "params", []):
        if param.param_type_name == "option" and not param.hidden:
            found.append((" ".join(path), (*param.opts, *param.secondary_opts)))
    return found


def test_every_option_is_on_some_page() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    words = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", text))
    shown = options(typer.main.get_command(make_app()))
    assert len(shown) > 100
    assert [(path, spellings[0]) for path, spellings in shown if words.isdisjoint(spellings)] == []


def test_a_wrong_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="no-such-option"):
        parse("mobilekit export model.onnx -o out --no-such-option")
