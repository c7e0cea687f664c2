"""docs/models.md tells what is registered."""

from __future__ import annotations

from pathlib import Path

from slivit.models._table import markdown_table, with_table
from slivit.models.registry import list_models

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_page_has_the_table_of_the_register() -> None:
    text = PAGE.read_text("utf-8")
    assert text == with_table(text), "run: python -m slivit.models._table docs/models.md"
    assert markdown_table() in text


def test_every_model_has_a_row() -> None:
    rows = markdown_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list_models()
    assert all(row.count(" | ") == rows[0].count(" | ") for row in rows)
