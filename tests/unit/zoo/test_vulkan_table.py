"""The table of real models through Vulkan is made from its data, and hides nothing that is not right."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = runpy.run_path(str(Path(__file__).parents[3] / "scripts" / "vulkan_table.py"), run_name="loaded by a test")


def test_the_page_is_what_the_data_give() -> None:
    assert SCRIPT["PAGE"].read_text(encoding="utf-8") == SCRIPT["page"](SCRIPT["read"]())


def test_what_is_not_right_is_said_with_the_reason() -> None:
    rows = SCRIPT["read"]()
    assert rows
    text = SCRIPT["PAGE"].read_text(encoding="utf-8")
    for id_, row in rows.items():
        for precision in SCRIPT["PRECISIONS"]:
            if row[f"{precision}_verdict"] != "pass":
                assert f"- `{id_}`, {precision}: {row[f'{precision}_note']}" in text
                assert row[f"{precision}_note"]
