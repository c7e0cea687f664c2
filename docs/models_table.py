"""The table of models in docs/models.md: `python docs/models_table.py docs/models.md` writes it anew."""

from __future__ import annotations

import sys
from pathlib import Path

from slivit.models.registry import list_models, model_spec

BEGIN, END = "<!-- table of models: begin -->", "<!-- table of models: end -->"
COLUMNS = ("Model", "Input", "S x H x W", "Parameters", "What to download", "Licence", "Source")


def markdown_table() -> str:
    """All registered models, one a row, as Markdown."""
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for name in list_models():
        spec = model_spec(name)
        size = " x ".join(str(n) for n in spec.size)
        weights = spec.weights or "nothing: it starts at random"
        rows.append(
            (f"`{name}`", spec.takes, size, f"{spec.parameters / 1e6:.1f} M", weights, spec.licence, spec.source)
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def with_table(text: str) -> str:
    """The text of the page with the table between its two marks replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{markdown_table()}\n{END}{after}"


def main(path: Path) -> None:
    """Write the table into the page."""
    path.write_text(with_table(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
