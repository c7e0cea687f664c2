"""How alike the features of 2D backbones are: linear CKA over the slices of the same volumes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.table import write_table
from slivit.errors import RecipeError, SlivitError
from slivit.files import write_json
from slivit.folder import open_results

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
TABLE, SUMMARY, FIGURE = "similarity.csv", "similarity.json", "similarity.png"
TOP = 0.05
"""The share of slices with the highest values whose mean is given beside that of all."""


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of two sets of features of the same places, from 0 to 1.

    Args:
        x: (n, p) features of n places.
        y: (n, q) features of the same places by another network.

    Returns:
        NaN where the features of one network are the same at all places.

    Source: Kornblith et al. 2019, arXiv:1905.00414, section 3 (equation 4 with linear kernels).
    """
    x, y = (z.double() - z.double().mean(0) for z in (x, y))
    scale = (x.mT @ x).norm() * (y.mT @ y).norm()
    return float((y.mT @ x).norm() ** 2 / scale) if scale > 0 else float("nan")


def make_backbones(named: Mapping[str, str], backbone: str, image_size: int, seed: int = 0) -> dict[str, nn.Module]:
    """The networks that are compared, all of one architecture.

    Args:
        named: by its name what each starts from: "random", "imagenet" (timm's weights), or a run, checkpoint or file.
        backbone: a convolutional network of timm.
        image_size: P.
        seed: of a network at random.

    Raises:
        RecipeError: fewer than two.
    """
    from slivit.models._weights import load_backbone
    from slivit.models.registry import create_model

    if len(named) < 2:
        raise RecipeError("similarity needs two networks at least, each as NAME=random, NAME=imagenet or NAME=WEIGHTS")
    made: dict[str, nn.Module] = {}
    for name, weights in named.items():
        torch.manual_seed(seed)
        own: Any = {"backbone": backbone, "image_size": image_size, "pretrained": weights == "imagenet"}
        made[name] = create_model("image_classifier", 1, **own).eval()
        if weights not in ("random", "imagenet"):
            load_backbone(made[name], weights)
    return made


@torch.inference_mode()
def scan_similarities(
    path: str, networks: Mapping[str, nn.Module], settings: Preprocessing
) -> Iterator[dict[str, Any]]:
    """The similarity of each pair of networks in each slice of a scan, over the places of their feature maps."""
    from slivit.models._backbones import feature_map
    from slivit.models.registry import spec_of

    spec = spec_of(next(iter(networks.values())))
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    for number, image in enumerate(load_slices(path, settings)):
        x = (torch.from_numpy(image).float().div(255).expand(1, 3, -1, -1) - mean) / std
        maps: dict[str, Tensor] = {}
        for name, network in networks.items():
            part: Any = network
            maps[name] = feature_map(part.backbone, part.backbone_info.stage, x)[0].flatten(1).mT
        for first, second in combinations(networks, 2):
            cka = linear_cka(maps[first], maps[second])
            yield {"path": path, "slice": number, "first": first, "second": second, "cka": cka}


def compare_backbones(
    paths: Sequence[str],
    networks: Mapping[str, nn.Module],
    settings: Preprocessing,
    out: Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Compare networks on the slices of volumes; write `similarity.csv`, `similarity.json` and `similarity.png`.

    Args:
        paths: of the volumes.
        networks: at least two of one architecture.
        settings: the preprocessing, with its size set.
        out: the folder.
        overwrite: replace earlier results there.

    Source: Avram et al. 2024, Methods, "Feature similarity analysis".
    """
    import pandas as pd

    folder = open_results(out, overwrite=overwrite)
    rows = [row for path in paths for row in scan_similarities(path, networks, settings)]
    table = pd.DataFrame(rows)
    summary = summary_of(table)
    write_table(folder / TABLE, table)
    write_json(folder / SUMMARY, summary)
    for pair in summary["pairs"]:
        log.info("%s and %s: CKA %.3f, top 5%% %.3f", pair["first"], pair["second"], pair["mean"], pair["top"])
    draw(summary, folder / FIGURE)
    return folder


def summary_of(table: pd.DataFrame) -> dict[str, Any]:
    """The mean over slices and volumes of every pair of networks, that of its top 5% of slices, and t-tests.

    Two pairs are tested by a paired t-test over volumes, each the mean over its slices; p-values are corrected by
    Bonferroni for all such tests.

    Raises:
        SlivitError: no slice has features that differ between places.
    """
    import pandas as pd
    from scipy.stats import ttest_rel

    from slivit.statistics import adjust_p_values

    pairs, by_volume = [], {}
    for (first, second), part in table.groupby(["first", "second"], sort=False):
        values = part["cka"].dropna().to_numpy()
        if not len(values):
            why = "no slice has features that differ between places"
            raise SlivitError(f"{first} and {second}: {why}; take a larger --image-size, or look at the scans")
        count = max(1, round(TOP * len(values)))
        by_volume[f"{first} and {second}"] = part.groupby("path", sort=True)["cka"].mean()
        volumes = by_volume[f"{first} and {second}"]
        sd = float(volumes.std(ddof=1)) if len(volumes) > 1 else None
        means = {"mean": float(volumes.mean()), "sd": sd, "top": float(np.sort(values)[-count:].mean())}
        pairs.append({"first": first, "second": second, **means, "slices": len(values), "volumes": len(volumes)})
    tests: list[dict[str, Any]] = []
    for one, other in combinations(by_volume, 2):
        both = pd.concat([by_volume[one], by_volume[other]], axis=1).dropna()
        a, b = both.to_numpy().T
        differs = len(a) > 1 and bool(np.ptp(a - b) > 0)
        p_value = float(ttest_rel(a, b).pvalue) if differs else None
        tests.append(
            {"first": one, "second": other, "difference": float(np.mean(a - b)) if len(a) else None, "p_value": p_value}
        )
    for test, corrected in zip(tests, adjust_p_values([t["p_value"] for t in tests], "bonferroni"), strict=True):
        test["bonferroni"] = corrected
    return {"schema": "slivit.similarity", "version": 1, "pairs": pairs, "tests": tests}


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """Draw the mean and the top 5% of every pair of networks."""
    from slivit.report.draw import new_figure, styled
    from slivit.report.style import PALETTE

    with styled():
        pairs = summary["pairs"]
        figure, ax = new_figure(1.2 + 0.45 * len(pairs))
        for place, pair in enumerate(pairs):
            ax.errorbar(pair["mean"], place, xerr=pair["sd"], fmt="o", color=PALETTE[0], capsize=3)
            ax.plot(pair["top"], place, "D", color=PALETTE[1])
        ax.plot([], [], "o", color=PALETTE[0], label="mean over slices and volumes, SD over volumes")
        ax.plot([], [], "D", color=PALETTE[1], label="mean of the top 5% of slices")
        ax.set_yticks(range(len(pairs)), [f"{pair['first']} and {pair['second']}" for pair in pairs])
        ax.set(xlim=(0, 1.02), ylim=(len(pairs) - 0.4, -0.6), xlabel="Linear CKA")
        ax.grid(True, axis="x")
        figure.legend(loc="outside upper center", frameon=False, fontsize=8)
        figure.savefig(path, dpi=150)
