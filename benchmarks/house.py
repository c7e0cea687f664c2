"""How much of the house a reader of one tiny fine-tuning walks through, and how its rooms lie; nothing is timed.

    python benchmarks/house.py            # this clone
    python benchmarks/house.py OTHER      # another one, such as a worktree of an earlier commit

Files executed are those of `slivit/` in which a function runs (import-time work apart) from the command to the last
line of `slivit finetune` on ten made-up scans. Calls to the first gradient are the frames of `slivit/` that lie on the
stack when `backward` is called for the first time, from the command's function on; once with one learning rate, and
once with a list of them.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
KINDS = "binary|multiclass|multilabel|regression"
KIND = re.compile(rf"METRICS\[|kind (==|!=|in|not in) [(\[{{]?[\"']({KINDS})")


def tiny_recipe(folder: Path, lr: str) -> Path:
    """Ten scans of 4 x 24 x 24 voxels, and a recipe that fine-tunes a tiny SLIViT on them."""
    import numpy as np
    import tifffile

    rows = ["path,patient,split,bright"]
    for i in range(10):
        volume = np.random.default_rng(i).integers(0, 120, (4, 24, 24)).astype(np.uint8)
        volume[1, 8:14, 8:14] = 250 * (i % 2)
        tifffile.imwrite(folder / f"{i}.tif", volume, photometric="minisblack")
        rows.append(f"{i}.tif,P{i},{'train' if i < 4 else 'val' if i < 7 else 'test'},{i % 2}")
    (folder / "scans.csv").write_text("\n".join(rows))
    recipe = folder / "tiny.toml"
    recipe.write_text(
        f'out = "{(folder / "run").as_posix()}"\n'
        f'data = {{ manifest = "{(folder / "scans.csv").as_posix()}", workers = 0 }}\n'
        'task = { kind = "binary", targets = ["bright"] }\n'
        'model = { name = "slivit", backbone = "resnet10t", slices = 4, image_size = 32, stride = 16, vit_dim = 8, '
        "vit_depth = 1, vit_heads = 1, dim_head = 8, mlp_dim = 8, "
        "backbone_args = { channels = [4, 4, 8, 8], stem_width = 8 } }\n"
        f'fit = {{ epochs = 1, lr = {lr}, batch_size = 4, device = "cpu" }}\n'
        "testing = { draws = 5 }\n"
    )
    return recipe


def walk(package: Path, recipe: Path) -> dict[str, list[str]]:
    """Fine-tune by a recipe in this process: the files that run, and the frames above the first gradient."""
    import threading

    import torch

    from slivit.cli import app

    files: set[str] = set()
    stack: list[str] = []
    loading = [0]

    def look(frame, event, _):
        if frame.f_code.co_name == "<module>":
            loading[0] += {"call": 1, "return": -1}.get(event, 0)
        elif event == "call" and not loading[0] and frame.f_code.co_filename.startswith(f"{package}/"):
            files.add(str(Path(frame.f_code.co_filename).relative_to(package)))

    backward = torch.Tensor.backward

    def first(tensor, *args, **kwargs):
        frame = None if stack else sys._getframe(1)
        while frame:
            if frame.f_code.co_filename.startswith(f"{package}/"):
                file = Path(frame.f_code.co_filename).relative_to(package)
                stack.insert(0, f"{file}:{frame.f_code.co_name}")
            frame = frame.f_back
        return backward(tensor, *args, **kwargs)

    torch.Tensor.backward = first
    sys.setprofile(look)
    threading.setprofile(look)
    try:
        app(args=["finetune", str(recipe)], standalone_mode=False)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return {"files": sorted(files), "stack": stack}


def walked(clone: Path, lr: str) -> dict[str, list[str]]:
    """`walk` in a process of its own, with the package of a clone."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, str(clone), "--walk", str(tiny_recipe(Path(folder), lr))]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def modules(package: Path) -> dict[str, Path]:
    """The modules of a package by their dotted names."""
    named = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return named


def imports(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a file imports when it is itself imported."""
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("slivit"):
            deeper = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in deeper)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("slivit"))


def circles(package: Path) -> list[list[str]]:
    """Modules that import each other at import time, as strongly connected components."""
    from graphlib import CycleError, TopologicalSorter

    known = modules(package)
    graph = {name: {m for m in imports(file, known) if m in known and m != name} for name, file in known.items()}
    groups = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
            return groups
        except CycleError as error:
            circle = error.args[1]
            groups.append(circle)
            graph[circle[1]].discard(circle[0])  # the sorter tells a circle against the direction of its imports
            graph[circle[0]].discard(circle[1])


def repeated(files: dict[str, Path], least: int = 5) -> tuple[int, int]:
    """Lines of code that stand in an earlier place too, in `least` or more in a row, and how many lines of code are.

    Docstrings, imports, blank lines and closing brackets do not count.
    """
    seen: set[tuple[str, ...]] = set()
    again = total = 0
    for file in files.values():
        text = file.read_text("utf-8")
        left = {
            number
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
            or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
            for number in range(node.lineno, (node.end_lineno or 0) + 1)
        }
        lines = [line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in left]
        lines = [line for line in lines if line.strip(")]}(,:")]
        windows = [tuple(lines[i : i + least]) for i in range(len(lines) - least + 1)]
        twice = {i + k for i, window in enumerate(windows) if window in seen for k in range(least)}
        seen.update(windows)
        again, total = again + len(twice), total + len(lines)
    return again, total


def main() -> None:
    """Print the measurement of a clone as a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clone", nargs="?", type=Path, default=CLONE)
    parser.add_argument("--walk", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    package = given.clone.resolve() / "slivit"
    sys.path.insert(0, str(package.parent))
    if given.walk:
        print(json.dumps(walk(package, given.walk)))
        return
    one, several = walked(given.clone.resolve(), "1e-3"), walked(given.clone.resolve(), "[1e-3, 1e-4]")
    files = modules(package)
    lines = [line for file in files.values() for line in file.read_text("utf-8").splitlines()]
    asks = {
        name: sum(bool(KIND.search(line)) for line in file.read_text("utf-8").splitlines())
        for name, file in files.items()
        if not name.startswith(("slivit.targets", "slivit.task"))
    }
    print(f"package files that one tiny finetune executes: {len(one['files'])}")
    print(f"calls to the first gradient: {len(one['stack'])}; with a list of rates {len(several['stack'])}")
    print("  " + " > ".join(one["stack"]))
    print(f"modules at the top of slivit/: {sum(1 for f in package.glob('*.py'))}")
    print(
        f"lines that ask for a task's kind outside its class: {sum(asks.values())} in {sum(map(bool, asks.values()))}"
    )
    print(f"import circles: {len(circles(package))} {circles(package) or ''}")
    print(f"lines of slivit/: {len(lines)}")
    print(
        "lines of code, and those that stand in another place too, five or more in a row: {1}, {0}".format(
            *repeated(files)
        )
    )


if __name__ == "__main__":
    main()
