"""Loaders as users write them: one library a format, a resize a slice, and the slices concatenated.

Each returns what SLIViT's backbone takes: (3, S*256, 256) float32, normalised as for ImageNet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Choose = Callable[[int], Sequence[int]]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def transform(size: int) -> Callable[[Any], Any]:
    """The usual torchvision chain of an image: resize, to tensor, three channels, normalise."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize((size, size)),
            transforms.ToTensor(),
            transforms.Lambda(lambda x: x.expand(3, -1, -1)),
            transforms.Normalize(MEAN, STD),
        ]
    )


def every(depth: int) -> range:
    """All slices."""
    return range(depth)


def load_tiff(path: Path, choose: Choose, size: int = 256) -> Any:
    """A folder of TIFF frames with Pillow."""
    import torch
    from PIL import Image

    names = sorted(path.glob("*.tif"), key=lambda p: int(p.stem.split("_")[1]))
    change = transform(size)
    return torch.cat([change(Image.open(names[i]).convert("L")) for i in choose(len(names))], dim=1)


def load_dicom(path: Path, choose: Choose, size: int = 256) -> Any:
    """A DICOM series with pydicom: every file read, sorted by position, each slice scaled by its own maximum."""
    import pydicom
    import torch
    from PIL import Image

    files = sorted((pydicom.dcmread(p) for p in path.glob("*.dcm")), key=lambda d: float(d.ImagePositionPatient[2]))
    change = transform(size)
    slices = []
    for i in choose(len(files)):
        pixels = files[i].pixel_array.astype(np.float32)
        pixels = (pixels / max(pixels.max(), 1) * 255).astype(np.uint8)
        slices.append(change(Image.fromarray(pixels)))
    return torch.cat(slices, dim=1)


def load_video(path: Path, choose: Choose, size: int = 256) -> Any:
    """A clip with OpenCV: every frame decoded, the chosen ones used."""
    import cv2
    import torch
    from PIL import Image

    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))
    capture.release()
    change = transform(size)
    return torch.cat([change(Image.fromarray(frames[i])) for i in choose(len(frames))], dim=1)


LOADERS = {"OCT": load_tiff, "MRI": load_dicom, "video": load_video}
