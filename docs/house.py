"""The house in one picture, drawn from the imports: `python docs/house.py` writes docs/house.svg; a test compares."""

from __future__ import annotations

import ast
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "slivit"
OUT = Path(__file__).with_name("house.svg")
ORDER = (
    (
        "errors",
        "device",
        "parallel",
        "display",
        "files",
        "install",
        "machines",
        "settings",
        "plugins",
        "volume",
        "recipe",
    ),
    ("statistics",),
    ("targets",),
    ("data", "models", "phantoms"),
    ("checkpoint", "folder"),
    ("predict",),
    ("report",),
    ("evaluate",),
    ("train",),
    ("probing", "explanation"),
    ("ssl",),
    ("sharing",),
    ("viewer",),
    ("run",),
    ("experiments",),
    ("planned",),
    ("cli", "__main__"),
)
"""The rooms from the ground up: each imports what stands below it, or beside it, and nothing above."""

WIDTH, ROW, BOX, HEIGHT = 980, 58, 290, 40


def room_of(path: Path) -> str:
    """The room of a file: its folder below slivit/, or its own name."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """The rooms that a file imports, wherever in it, but for type checkers alone."""
    tree = ast.parse(path.read_text("utf-8"))
    unseen = {
        node
        for top in ast.walk(tree)
        if isinstance(top, ast.If) and "TYPE_CHECKING" in ast.dump(top.test)
        for node in ast.walk(top)
    }
    rooms: set[str] = set()
    for node in (n for n in ast.walk(tree) if n not in unseen):
        if isinstance(node, ast.ImportFrom) and node.module == "slivit":
            rooms |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("slivit."):
            rooms.add(str(node.module).split(".")[1])
    return rooms


def arrows() -> dict[str, set[str]]:
    """Which rooms each room imports."""
    used: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        used.setdefault(room_of(path), set()).update(imports(path))
    rooms = set(used)
    return {room: (others & rooms) - {room} for room, others in used.items()}


def purpose(room: str) -> str:
    """The first sentence of a room's docstring."""
    place = PACKAGE / room
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return text.split("\n")[0].split(". ")[0].rstrip(".")


def shortest(used: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The arrows that do not follow from others: from a room to those that none of its others imports."""
    return {(a, b) for a, others in used.items() for b in others if not any(b in used[c] for c in others - {b})}


def picture() -> str:
    """The house as SVG: a row for each step of the order, the ground at the bottom."""
    rows = [list(step) for step in reversed(ORDER[1:])]
    place: dict[str, tuple[float, float]] = {}
    parts: list[str] = []
    for number, row in enumerate(rows):
        for i, room in enumerate(r for r in row if r != "__main__"):
            x = WIDTH / 2 + (i - (len([r for r in row if r != "__main__"]) - 1) / 2) * (BOX + 20)
            place[room] = (x, 20 + number * ROW)
            parts.append(_box(room, *place[room]))
    bottom = 20 + len(rows) * ROW
    place |= dict.fromkeys(ORDER[0], (WIDTH / 2, bottom))
    parts.append(_box(", ".join(ORDER[0]), WIDTH / 2, bottom, wide=True))
    lines = [_line(place[a], place[b]) for a, b in sorted(shortest(arrows())) if a in place and b in place]
    size = f'viewBox="0 0 {WIDTH} {bottom + HEIGHT + 20}"'
    style = "<style>text{font:12px sans-serif;fill:#222}.n{font-weight:700}rect{fill:#f4f6f8;stroke:#7a8794}"
    style += "path{fill:none;stroke:#a9b4be}</style>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{style}\n' + "\n".join([*sorted(lines), *parts]) + "\n</svg>\n"
    )


def _box(name: str, x: float, y: float, *, wide: bool = False) -> str:
    width = WIDTH - 60 if wide else BOX
    words = "" if wide else purpose(name)
    words = words if len(words) <= 46 else words[:45].rstrip() + "…"
    rect = f'<rect x="{x - width / 2:g}" y="{y:g}" width="{width}" height="{HEIGHT}" rx="6"/>'
    title = f'<text class="n" x="{x - width / 2 + 10:g}" y="{y + 17:g}">{escape(name)}</text>'
    return f'<g>{rect}{title}<text x="{x - width / 2 + 10:g}" y="{y + 33:g}">{escape(words)}</text></g>'


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    bend = 60 + abs(y2 - y1) / 3
    return f'<path d="M{x1:g} {y1 + HEIGHT:g} C{x1 + bend:g} {y1 + HEIGHT:g} {x2 + bend:g} {y2:g} {x2:g} {y2:g}"/>'


def steps() -> dict[str, int]:
    """How high each room stands."""
    return {room: height for height, step in enumerate(ORDER) for room in step}


if __name__ == "__main__":
    OUT.write_text(picture(), "utf-8")
    print(OUT)
