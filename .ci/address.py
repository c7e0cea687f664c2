"""Write the public address of the repository into the files that tell it: `python .ci/address.py https://HOST/OWNER/NAME`.

The project has no address of its own until somebody publishes it. Run it once; a second run changes the address.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARK = "colab-badge"
SERVICE = "https://colab.research.google.com"


def replace_or_add(path: Path, pattern: str, line: str, before: str) -> None:
    """Put a line into a file in the place of the one that matches, else before the first line that starts so."""
    text = path.read_text("utf-8")
    changed, count = re.subn(pattern, lambda _: line, text, count=1, flags=re.M)
    path.write_text(changed if count else text.replace(f"\n{before}", f"\n{line}\n{before}", 1), "utf-8")


def add_badge(path: Path, address: str) -> None:
    """Give a notebook a badge that opens it in Colab, and a cell that installs the package there."""
    owner = "/".join(address.split("/")[-2:])
    link = f"{SERVICE}/github/{owner}/blob/main/notebooks/{path.name}"
    badge = f"[![Open in Colab]({SERVICE}/assets/colab-badge.svg)]({link})"
    install = f'import sys\n\nif "google.colab" in sys.modules:\n    %pip install -q "slivit @ git+{address}"'
    book = json.loads(path.read_text("utf-8"))
    cells = [cell for cell in book["cells"] if MARK not in cell["metadata"].get("tags", ())]
    tags = {"tags": [MARK]}
    text = {"cell_type": "markdown", "id": "colab-badge", "metadata": tags, "source": badge.splitlines(keepends=True)}
    code = {"cell_type": "code", "id": "colab-install", "metadata": tags, "source": install.splitlines(keepends=True)}
    book["cells"] = [text, code | {"execution_count": None, "outputs": []}, *cells]
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", "utf-8")


def write_address(root: Path, address: str) -> None:
    """Write the address into all files below `root`."""
    replace_or_add(root / "setup.cfg", "^url = .*", f"url = {address}", "author = ")
    replace_or_add(root / "CITATION.cff", "^repository-code: .*", f"repository-code: {address}", "license: ")
    replace_or_add(root / "README.md", "^git clone .*", f"git clone {address} slivit && cd slivit", "pip install .  ")
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        add_badge(notebook, address)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not re.fullmatch(r"https://[\w.-]+/[\w.-]+/[\w.-]+", sys.argv[1]):
        sys.exit(__doc__)
    write_address(ROOT, sys.argv[1].removesuffix(".git"))
