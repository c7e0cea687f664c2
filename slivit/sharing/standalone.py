"""From a scan to the input of the model beside this file, and from its output to a prediction.

Needs numpy and opencv-python-headless, and nothing else (Pillow where "interpolation" is "bilinear"): `slivit export`
copies this file beside a model, as preprocess.py. `python preprocess.py` runs it on example.npz and compares every
pixel.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Settings = dict[str, Any]
"""The "preprocessing" of preprocessing.json."""
Spacing = tuple[float, float, float] | None
"""In mm, between slices, rows and columns."""

_PLAIN = ("data/weights/", "data/constants/", "data/sample_inputs/", "models/", "archive_", ".data/", "byteorder")


EXAMPLE_SPACING = (2.0, 1.0, 1.0)
"""Of the scan in example.npz, in mm."""


def load_settings(folder: Path) -> Settings:
    """Read preprocessing.json, and stop where a file of the model is not the one that SHA256SUMS names."""
    for line in (folder / "SHA256SUMS").read_text("utf-8").splitlines():
        value, name = line.split(maxsplit=1)
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != value and name != "README.md":
            raise SystemExit(f"{name} was changed since this model was exported; nothing is predicted")
    settings: Settings = json.loads((folder / "preprocessing.json").read_text("utf-8"))
    return settings


def check_no_pickles(path: Path) -> None:
    """Stop where a file of torch.export holds a pickle, which could run foreign code as it is opened."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.partition("/")[2]
            configs = json.loads(archive.read(info))["config"] if name.endswith("_config.json") else {}
            pickled = any(c["use_pickle"] or "_obj_" in c["path_name"] for c in configs.values())
            allowed = name.startswith(_PLAIN) and not (name.startswith("data/sample_inputs/") and info.file_size)
            if pickled or not allowed or (name.endswith(".pt") and info.file_size):
                raise SystemExit(f"{path} holds {name}, which could run foreign code; it is not opened")


def arguments(given: list[str], settings: Settings) -> tuple[list[str], dict[str, str]]:
    """The scans, and what is known beside them, of a command line of scans and NAME=VALUE."""
    names = {c["name"] for c in settings["task"].get("inputs") or []}
    known = dict(text.split("=", 1) for text in given if text.partition("=")[0] in names)
    return [text for text in given if text.partition("=")[0] not in names], known


def covariates(volume: Array, spacing: Spacing, known: dict[str, str], settings: Settings) -> Array | None:
    """(1, k) float32: what the model reads beside the slices, where it does.

    Args:
        volume: (..., D, H, W).
        spacing: in mm, where it is known.
        known: by name, as text; a name without a value is missing.
        settings: of preprocessing.json.
    """
    inputs = settings["task"].get("inputs") or []
    names = ("geometry_z_mm", "geometry_y_mm", "geometry_x_mm")
    sizes = (np.array(volume.shape[-3:]) * spacing).tolist() if spacing else [""] * 3
    known = known | dict(zip(names, sizes, strict=True)) | {"geometry_slices": volume.shape[-3]}
    if lacking := [c["name"] for c in inputs if c["name"] not in known]:
        raise SystemExit(f"the model reads {', '.join(lacking)} as well: give NAME=VALUE, or NAME= where it is missing")
    numbers = [number for c in inputs for number in covariate(c, known[c["name"]])]
    return np.array([numbers], np.float32) if inputs else None


def covariate(c: Settings, value: Any) -> list[float]:
    """Standardised, or 1 at its level; then 1 where it is missing, if training scans lacked it."""
    missing = value == ""
    values = [float(str(value) == level) for level in c["levels"]] if c["levels"] else []
    if not c["levels"]:
        values = [0.0 if missing else (float(value) - c["mean"]) / c["spread"]]
    return values + [float(missing)] * c["gaps"]


def feed(part: Array, known: Array | None) -> dict[str, Array]:
    """What the graph takes, by the names of its inputs."""
    return {"slices": part} if known is None else {"slices": part, "covariates": known}


def slice_numbers(depth: int, p: Settings) -> list[int]:
    """The slices that are used, in order; -1 is a blank one."""
    wanted = p["size"][0]
    if (p.get("spacing") or [0])[0] or (p.get("windows") and depth >= wanted) or p["sampling"] == "all":
        return list(range(depth))
    if depth < wanted and p["short"] == "error":
        raise ValueError(f"the scan has {depth} slices, {wanted} are needed")
    if depth < wanted and p["short"] == "pad":
        return [*range(depth), *[-1] * (wanted - depth)]
    if p["sampling"] == "resample":
        lower, weight = between(depth, wanted)
        return sorted({*lower.tolist(), *(lower[weight > 0] + 1).tolist()})
    if p["sampling"] == "linspace" or (p["sampling"] == "linspace_middle" and depth < wanted):
        return np.linspace(0, depth - 1, wanted).astype(int).tolist()
    if p["sampling"] == "linspace_middle":
        ends = depth // 2 - wanted // 2, depth // 2 + wanted // 2
        return np.linspace(*ends, wanted).clip(0, depth - 1).astype(int).tolist()
    if depth < wanted or p["sampling"] == "even":
        return [int((i + 0.5) * depth / wanted) for i in range(wanted)]
    return [i + (depth - wanted) // 2 for i in range(wanted)]


def between(depth: int, wanted: int) -> tuple[Array, Array]:
    """For "resample": the slice below each of the wanted places, and the weight of the slice above it."""
    places = np.clip((np.arange(wanted) + 0.5) * depth / wanted - 0.5, 0, depth - 1)
    lower = places.astype(int)
    return lower, places - lower


def black_and_white(stack: Array, p: Settings) -> tuple[float, float]:
    """The intensities that become 0 and 255."""
    window, stretch = p.get("window"), p.get("stretch")
    if window and not stretch:
        return window[0], window[1]
    if not stretch and stack.dtype == np.uint8:
        return 0.0, 255.0
    values = stack[np.isfinite(stack)].astype(np.float64)
    if window:
        values = np.clip(values, *window)
    low, high = np.percentile(values, stretch or (0, 100))
    if low == high:
        low, high = values.min(), values.max()
    return float(low), float(high)


def to_uint8(image: Array, low: float, high: float) -> Array:
    """`low` to 0 and `high` to 255, clipped and rounded; what is not a number to 0."""
    if low == high:
        return np.zeros(image.shape, np.uint8)
    scaled = (image.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    scaled = np.clip(scaled, 0, 1) * np.float32(255)
    return np.rint(np.nan_to_num(scaled, nan=0.0)).astype(np.uint8)


def resize(image: Array, height: int, width: int, how: str = "area") -> Array:
    """By area where a slice shrinks in both directions, else linearly; "bilinear" is Pillow's filter."""
    if image.shape == (height, width):
        return image
    if how == "bilinear":
        from PIL import Image

        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def preprocess(volume: Array, p: Settings, spacing: Spacing = None) -> Array:
    """(D, H, W) of any number type -> (S, H, W) uint8; all slices of the scan where it is cut into windows.

    With channels, each by itself: (C, D, H, W) -> (C, S, H, W).
    """
    channels = p.get("channels") or []
    if volume.ndim != (4 if channels else 3) or (channels and len(volume) != len(channels)):
        raise ValueError(f"the model takes {len(channels) or 'no'} channels {channels}; the scan is {volume.shape}")
    if channels:
        volume = volume[(slice(None), *box(volume, p["foreground"], spacing))] if p.get("foreground") else volume
        return np.stack([preprocess(channel, {**p, "channels": [], "foreground": None}, spacing) for channel in volume])
    if p.get("foreground"):
        volume = volume[box(volume[None], p["foreground"], spacing)]
    wanted, height, width = p["size"]
    size = tuple(p.get("resize") or (height, width))
    numbers = slice_numbers(len(volume), p)
    stack = volume[[n for n in numbers if n >= 0]]
    low, high = (0.0, 0.0) if p.get("wrap") else black_and_white(stack, p)
    rows, columns = shape_of_slices(volume.shape[1:], p, size, spacing)
    out = np.zeros((len(numbers), rows, columns), np.uint8)
    for target, image in zip(out, stack, strict=False):
        grey = (255 * image.astype(float)).astype(int).astype(np.uint8) if p.get("wrap") else to_uint8(image, low, high)
        target[...] = resize(grey, rows, columns, p.get("interpolation", "area"))
    out = centred(out, (len(out), *size))
    if between_slices := (p.get("spacing") or [0])[0]:
        out = centred(other_depth(out, round(len(volume) * millimetres(spacing)[0] / between_slices)), (wanted, *size))
    elif p["sampling"] == "resample" and not (p["short"] == "pad" and len(volume) < wanted):
        out = interpolated(out, numbers, len(volume), wanted)
    if p.get("shuffle_slices") is not None:
        out = out[np.random.default_rng([p["shuffle_slices"], zlib.crc32(out.tobytes())]).permutation(len(out))]
    return centred(out, (len(out), height, width))


def box(channels: Array, rule: Settings, spacing: Spacing) -> tuple[slice, ...]:
    """The slices, rows and columns round what is above the rule's threshold in any of (C, D, H, W)."""
    sides = []
    for axis in range(3):
        ends = []
        for channel in channels:
            above = channel > foreground_threshold(channel, rule)
            shares = above.mean(tuple(other for other in range(3) if other != axis))
            kept = np.flatnonzero(shares >= max(rule["least"], 1e-12))
            margin = int(np.ceil(rule["margin"] / (spacing or (1.0,) * 3)[axis] - 1e-6))
            ends.append((kept[0] - margin, kept[-1] + 1 + margin) if len(kept) else (0, len(shares)))
        starts, stops = zip(*ends, strict=True)
        sides.append(slice(max(0, min(starts)), min(channels.shape[1 + axis], max(stops))))
    return tuple(sides)


def foreground_threshold(array: Array, rule: Settings) -> float:
    """A number, a percentile of the scan, or the threshold of Otsu 1979 over 256 bins."""
    if rule["threshold"] != "otsu" and rule["unit"] == "value":
        return float(rule["threshold"])
    values = array.reshape(-1)[:: max(1, array.size // 1_000_000) | 1].astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values) or rule["threshold"] != "otsu":
        return float(np.percentile(values, rule["threshold"])) if len(values) else np.inf
    counts, edges = np.histogram(values.clip(*np.percentile(values, (0.1, 99.9))), 256)
    below = counts.cumsum()[:-1]
    sums = (counts * (edges[:-1] + edges[1:]) / 2).cumsum()
    apart = (sums[-1] * below / len(values) - sums[:-1]) ** 2 / np.maximum(below * (len(values) - below), 1)
    return float(edges[1 + apart.argmax()])


def shape_of_slices(shape: Any, p: Settings, size: Any, spacing: Spacing) -> tuple[int, int]:
    """The rows and columns to which slices are resized before they are cropped or padded."""
    wanted = (p.get("spacing") or [0, 0, 0])[1:]
    if any(wanted):
        sides = np.array(shape) * millimetres(spacing)[1:] / wanted
    elif p.get("fit") == "pad":
        sides = np.array(shape) * ((1.0, 1.0) if spacing is None else spacing[1:])
        sides = sides * (np.array(size) / sides).min()
    else:
        sides = np.array(size)
    rows, columns = np.maximum(np.rint(sides), 1).astype(int).tolist()
    return rows, columns


def millimetres(spacing: Spacing) -> Array:
    """The spacing of a scan, which must have one."""
    if spacing is None:
        raise ValueError("the model takes scans at a fixed spacing in mm, and this one does not say its own")
    return np.array(spacing)


def other_depth(stack: Array, depth: int) -> Array:
    """By averages where slices become fewer, linearly where they become more."""
    how = cv2.INTER_AREA if depth < len(stack) else cv2.INTER_LINEAR
    flat = stack.reshape(len(stack), -1)
    return cv2.resize(flat, (flat.shape[1], max(depth, 1)), interpolation=how).reshape(-1, *stack.shape[1:])


def centred(stack: Array, size: Any) -> Array:
    """Cropped, or padded with 0, round the centre."""
    for axis, wanted in enumerate(size):
        extra = wanted - stack.shape[axis]
        ends = [(0, 0)] * 3
        ends[axis] = (max(extra, 0) // 2, max(extra, 0) - max(extra, 0) // 2)
        first = max(-extra, 0) // 2
        stack = np.pad(stack, ends).take(range(first, first + wanted), axis)
    return stack


def interpolated(stack: Array, numbers: list[int], depth: int, wanted: int) -> Array:
    """Slices at evenly spread places between those of the scan."""
    out = []
    for below, weight in zip(*between(depth, wanted), strict=True):
        place = numbers.index(int(below))
        mixed = cv2.addWeighted(stack[place], 1 - weight, stack[place + 1], weight, 0) if weight else stack[place]
        out.append(mixed)
    return np.stack(out)


def batches(volume: Array, p: Settings, spacing: Spacing = None) -> Iterator[Array]:
    """What the model takes of a scan: (1, S, H, W) or (1, C, S, H, W) uint8, once, or once a window."""
    stack, length = preprocess(volume, p, spacing), p["size"][0]
    last = max(stack.shape[-3] - length, 0)
    starts = [*range(0, last, p["windows"]["stride"] or length), last] if p.get("windows") else [0]
    for start in starts:
        yield np.ascontiguousarray(stack[None, ..., start : start + length, :, :] if p.get("windows") else stack[None])


def finish(outputs: Array, settings: Settings) -> dict[str, Any]:
    """(windows, outputs) of the model -> the prediction of the scan, with its call where there is a threshold."""
    task, decision = settings["task"], settings.get("operating_point") or {}
    scores = combined(outputs.astype(np.float64), settings["preprocessing"].get("windows"))
    if decision.get("temperature"):
        scores = calibrated(scores, decision["temperature"], task["kind"])
    prediction: dict[str, Any] = dict(zip(settings["outputs"], scores.tolist(), strict=True))
    if task["kind"] == "multiclass" and decision:
        prediction[f"call_{task['targets'][0]}"] = task["classes"][int(scores.argmax())]
    elif task["kind"] != "regression" and decision:
        limits = {name: limit["value"] for name, limit in decision["thresholds"].items()}
        prediction |= {f"call_{t}": int(prediction[f"prob_{t}"] >= limits.get(t, 0.5)) for t in task["targets"]}
    return prediction


def combined(scores: Array, windows: Settings | None) -> Array:
    """(windows, outputs) -> (outputs,)."""
    if not windows or windows["score"] == "mean":
        return np.asarray(scores.mean(0))
    highest = np.sort(scores, axis=0)[::-1]
    return np.asarray(highest[: 1 if windows["score"] == "max" else windows["k"]].mean(0))


def calibrated(p: Array, temperature: float, kind: str) -> Array:
    """Probabilities whose logits are divided by the temperature."""
    p = np.clip(p, 1e-12, 1.0)
    if kind == "multiclass":
        scaled = p ** (1 / temperature)
        return np.asarray(scaled / scaled.sum())
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(1 / (1 + ((1 - p) / p) ** (1 / temperature)))


def check_example(folder: Path) -> None:
    """Compare what this file computes of the example with what `slivit export` computed."""
    settings = load_settings(folder)
    with np.load(folder / "example.npz", allow_pickle=False) as example:
        wrong = int(
            (preprocess(example["volume"], settings["preprocessing"], EXAMPLE_SPACING) != example["slices"]).sum()
        )
    print(f"example.npz: {wrong} pixels differ")


if __name__ == "__main__":
    check_example(Path(__file__).parent)
