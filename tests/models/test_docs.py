"""docs/models.md tells what is registered."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from slivit.models.registry import list_models

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
SPEC = importlib.util.spec_from_file_location("models_table", PAGE.with_name("models_table.py"))
models_table = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(models_table)


def test_the_page_has_the_table_of_the_register() -> None:
    text = PAGE.read_text("utf-8")
    assert text == models_table.with_table(text), "run: python docs/models_table.py docs/models.md"
    assert models_table.markdown_table() in text


def test_every_model_has_a_row() -> None:
    rows = models_table.markdown_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list_models()
    assert all(row.count(" | ") == rows[0].count(" | ") for row in rows)
