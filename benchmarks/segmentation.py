"""Segmentation of the hippocampus (MSD Task04, as ../shared holds it): every fifth case tests, the others train.

Run: python benchmarks/segmentation.py --data DATA [--models plain dynunet unet ...] [--seeds 0] [--out FOLDER]

DATA holds `hippocampus/images` and `hippocampus/labels`. "plain" is MONAI's U-Net in forty lines, written out
below; all others are trained by the shipped recipe `hippocampus`, with the changes in MODELS. The epoch is chosen
on validation cases, and test cases are read once. Processor time is that of training and testing. Runs that are
already in FOLDER are not repeated; one that was stopped goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import slivit
from slivit.recipe import load_recipe

DINO3D = "dim=96, depth=4, heads=3, position_size=48, layer_scale=1.0"
SWIN = "image_size=64, window_size=4, width=24, depths=[2, 2, 2, 2], heads=[3, 6, 12, 24]"
RANGE = ['preprocessing.sliding={values="range", overlap=0.5, blend="gaussian"}']  # 0 to 1, as pre-training has it
FROZEN = [*RANGE, "fit.freeze_backbone=true"]
MODELS: dict[str, list[str]] = {
    "dynunet": [],
    "unet": ['model={name="unet", slices=32, image_size=48, filters=[16, 32, 64, 128]}'],
    "swin_unetr": [
        'model={name="swin_unetr", slices=32, image_size=64, width=12, depths=[1, 1, 1, 1], heads=[1, 2, 2, 4]}',
        *RANGE,
    ],
    "dino3d_adapter": [
        f'model={{name="dino3d_adapter", vit="small", {DINO3D}, slices=32, image_size=48, decoder_width=8, '
        "prior_width=8}",
        *FROZEN,
    ],
    "dino3d_linear": [
        f'model={{name="dino3d_linear", vit="small", {DINO3D}, slices=64, image_size=96}}',
        "preprocessing.spacing=[0.5,0.5,0.5]",  # a token of 16 voxels is then 8 mm, and not half of the structure
        *FROZEN,
    ],
    "swin_unet": [f'model={{name="swin_unet", {SWIN}}}', "fit.batch_size=16", *RANGE],
}
"""What differs from the recipe; a name with "-pretrained" behind it starts from PRETRAINING on the same scans."""

STEPS = {"swin_unetr": 800, "dino3d_adapter": 500, "dino3d_linear": 500}
"""Of each model, 1,000 where it is not named, in ten epochs."""

PRETRAINING: dict[str, tuple[str, list[str]]] = {
    "dino3d": (
        "dino3d_small",
        [
            "model.slices=48",
            "model.image_size=48",
            "model.position_size=48",
            "preprocessing.stretch=[0.5,99.5]",
            "pretext.change=0.8",
            "fit.epochs=80",
            "fit.batch_size=16",
        ],
    ),
    "swin": (
        "vis_mae_small",
        [
            'model={name="slice_swin", backbone="swin_tiny_patch4_window7_224", image_size=64, slices=1, backbone_args='
            "{patch_size=4, window_size=4, embed_dim=24, depths=[2, 2, 2, 2], num_heads=[3, 6, 12, 24]}}",
            "preprocessing.stretch=[0.5,99.5]",
            "images.slices=all",
            "pretext.unit=8",
            "fit.epochs=20",
        ],
    ),
}
"""The recipes by which the two transformers learn without labels from the scans that train and validate."""


def manifest(data: Path, out: Path) -> Path:
    """The table of cases: every fifth tests, every tenth of the others' first validates."""
    file = out / "hippocampus.csv"
    names = sorted(path.name for path in (data / "hippocampus" / "images").iterdir())
    out.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "mask", "patient", "split"])
        for number, name in enumerate(names):
            split = "test" if number % 5 == 0 else "val" if number % 10 == 1 else "train"
            places = [str((data / "hippocampus" / folder / name).absolute()) for folder in ("images", "labels")]
            table.writerow([*places, name.split(".")[0], split])
    return file


def pretrain(table: Path, out: Path, family: str) -> Path:
    """The run of a self-supervised pre-training on the scans of a table but for its test rows; once for all seeds."""
    folder, (name, overrides) = out / f"pretraining-{family}", PRETRAINING[family]
    if not (folder / "checkpoint").is_dir():
        begun = time.process_time()
        changes = [f"out={folder}", f"data.manifest={table}", "fit.device=cpu", *overrides]
        slivit.pretrain(load_recipe("pretrain", name, changes), overwrite=True)
        (out / f"pretraining-{family}.json").write_text(json.dumps(time.process_time() - begun))
    return folder


def train(table: Path, out: Path, model: str, seed: int) -> dict[str, Any]:
    """One run by the shipped recipe; its test metrics and its seconds of processor time, without the pre-training's."""
    plain_name = model.removesuffix("-pretrained")
    start = [f"model.weights={pretrain(table, out, model.split('_')[0])}"] if plain_name != model else []
    folder, timing = out / f"{model}-{seed}", out / f"{model}-{seed}.json"
    if not (folder / "metrics.json").is_file():
        begun, spent = time.process_time(), json.loads(timing.read_text()) if timing.is_file() else 0.0
        goes_on = (folder / "progress.pt").is_file()
        overrides = [f"out={folder}", f"data.manifest={table}", f"data.cache={out / 'cache'}", f"seed={seed}"]
        overrides += ["fit.epochs=10", f"patches.steps={STEPS.get(plain_name, 1000) // 10}"]
        overrides += ["fit.device=cpu", *MODELS[plain_name], *start]
        source = folder / "recipe.toml" if goes_on else "hippocampus"
        recipe = load_recipe("finetune", source, [] if goes_on else overrides)
        try:
            slivit.finetune(recipe, resume=goes_on, overwrite=not goes_on)
        finally:
            timing.write_text(json.dumps(spent + time.process_time() - begun))
    test = json.loads((folder / "metrics.json").read_text())["splits"]["test"]["structures"]
    return {**test} | {"seconds": json.loads(timing.read_text())}


def plain(table: Path, out: Path, seed: int) -> dict[str, Any]:
    """MONAI's U-Net, its losses and its transforms, with nothing of this package but the measurement."""
    import nibabel
    import numpy as np
    import torch
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet

    from slivit.statistics import score_mask, summarise_masks

    file, begun = out / f"plain-{seed}.json", time.process_time()
    if file.is_file():
        return json.loads(file.read_text())
    torch.manual_seed(seed)
    rows = list(csv.DictReader(table.open()))

    def case(row: dict[str, str]) -> tuple[torch.Tensor, torch.Tensor]:
        image = torch.from_numpy(nibabel.load(row["path"]).get_fdata(dtype=np.float32))[None]
        mask = torch.from_numpy(np.asarray(nibabel.load(row["mask"]).dataobj)).long()[None]
        return (image - image.mean()) / image.std(), mask

    def padded(part: torch.Tensor) -> torch.Tensor:
        whole = part.new_zeros(1, 48, 64, 48)
        _, x, y, z = part.shape
        whole[:, :x, :y, :z] = part[:, :48, :64, :48]
        return whole

    cases = [tuple(map(padded, case(row))) for row in rows if row["split"] != "test"]
    network = UNet(3, 1, 3, (16, 32, 64, 128), (2, 2, 2), num_res_units=2)
    optimiser, loss = torch.optim.AdamW(network.parameters(), 1e-3), DiceCELoss(to_onehot_y=True, softmax=True)
    for _ in range(12):
        for chosen in torch.randperm(len(cases)).split(2):
            image, mask = (torch.stack([cases[i][part] for i in chosen]) for part in (0, 1))
            optimiser.zero_grad()
            loss(network(image), mask).backward()
            optimiser.step()
    network.eval()
    scores: dict[str, list[Any]] = {"anterior": [], "posterior": []}
    for row in (row for row in rows if row["split"] == "test"):
        image, mask = case(row)
        with torch.inference_mode():
            predicted = sliding_window_inference(image[None], (48, 64, 48), 1, network).argmax(1)
        for number, name in enumerate(scores, 1):
            scores[name].append(score_mask((mask[0] == number).numpy(), (predicted[0] == number).numpy(), (1, 1, 1)))
    summary: dict[str, Any] = {
        name: {key: e.to_dict() for key, e in summarise_masks(own).items()} for name, own in scores.items()
    }
    file.write_text(json.dumps(summary | {"seconds": time.process_time() - begun}))
    return json.loads(file.read_text())


METRICS = ("dice", "hd95", "absolute_volume_error_ml")
NAMES = ["plain", *MODELS, *(f"{name}-pretrained" for name in MODELS if name.startswith(("dino3d", "swin_unet")))]


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["plain", "dynunet", "unet"], choices=NAMES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/segmentation"))
    options = parser.parse_args()
    table = manifest(options.data, options.out)
    print("| model | seeds | structure | Dice | HD95 (mm) | absolute volume error (mL) | processor seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for model in options.models:
        runs = [
            plain(table, options.out, seed) if model == "plain" else train(table, options.out, model, seed)
            for seed in options.seeds
        ]
        for structure in ("anterior", "posterior"):
            cells = [over_seeds([f[structure][m]["value"] for f in runs]) for m in METRICS]
            seconds = over_seeds([f["seconds"] for f in runs], 0)
            print(f"| {model} | {len(runs)} | {structure} | {' | '.join(cells)} | {seconds} |", flush=True)


def over_seeds(values: list[float], digits: int = 3) -> str:
    """The mean over seeds, with the range where there are several."""
    shown = [f"{value:.{digits}f}" for value in (sum(values) / len(values), min(values), max(values))]
    return shown[0] if len(values) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"


if __name__ == "__main__":
    main()
