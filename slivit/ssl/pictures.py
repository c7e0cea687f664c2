"""Pictures of what a masked method rebuilds, drawn while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.torch_core import rank_distrib
from torch import Tensor

from slivit.files import whole_file
from slivit.ssl._images import frozen
from slivit.ssl.pretext import Pretext

CELL = 1.4  # inches


class DrawPictures(Callback):
    """Every few epochs, and behind the last, a PNG of the same validation images: as they are, masked, and rebuilt.

    The masks are the same each time, so that the pictures can be compared, and nothing random in the training changes.

    Args:
        pretext: with `pictures`; without them, nothing is drawn.
        folder: where `epoch_010.png` and so on go; it is made where it is missing.
        every: epochs between two pictures; 0 for none.
        count: images in each.
    """

    order, run_train, run_valid = 53, False, False  # behind fastai's Recorder

    def __init__(self, pretext: Pretext, folder: str | Path, every: int = 10, count: int = 6) -> None:
        self.pretext, self.folder, self.every, self.count = pretext, Path(folder), every, count
        self._batch: Tensor | None = None

    def after_epoch(self) -> None:
        if self.pretext.pictures is None or not self.every or hasattr(self.learn, "lr_finder") or rank_distrib():
            return
        done = self.epoch + 1
        if done % self.every and done != self.n_epoch:
            return
        with torch.random.fork_rng(devices=[]), frozen(self.pretext.model):
            torch.manual_seed(0)
            pictures = self.pretext.pictures(self._images())
        self.folder.mkdir(parents=True, exist_ok=True)
        draw_pictures(pictures, self.folder / f"epoch_{done:03d}.png", f"{self.pretext.name}, epoch {done}")

    def _images(self) -> Tensor:
        """The same images of the validation part each time, spread over it, on the device of the model."""
        if self._batch is None:
            items = self.dls.valid_ds
            chosen = np.linspace(0, len(items) - 1, min(self.count, len(items))).round().astype(int)
            images = torch.stack([items[int(i)][0].as_subclass(Tensor) for i in chosen])
            self._batch = images.to(next(self.pretext.model.parameters()).device)
        return self._batch


def draw_pictures(pictures: Mapping[str, Tensor], path: Path, title: str) -> None:
    """Write named images as a PNG, a row a name.

    Args:
        pictures: (B, H, W) from 0 to 1 by name.
        path: of the PNG; written whole or not at all.
        title: above them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(next(iter(pictures.values())))
    figure = Figure(figsize=(CELL * columns + 0.3, CELL * len(pictures) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(pictures), columns, squeeze=False)
    for row, (name, images) in zip(grid, pictures.items(), strict=True):
        for axes, image in zip(row, images.detach().float().cpu().numpy(), strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=9)
    with whole_file(path) as partial:
        FigureCanvasAgg(figure).print_figure(str(partial), format="png", dpi=120)
