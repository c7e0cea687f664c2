"""What the files of an export say: how it is used, how safe it is, and how scans are preprocessed, step by step."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from slivit.errors import install_command
from slivit.targets.covariates import GEOMETRY_COLUMNS

_ALONE = """```bash
pip install {packages}
python predict.py scan.nii.gz{{known}}  # or a DICOM folder, a folder of frames, a .npy file of a (D, H, W) array
python preprocess.py                # checks the preprocessing on example.npz
```

`reading.py` reads scans as slivit does: NIfTI (needs nibabel), DICOM (pydicom as well) and frames (Pillow). What it
cannot read without guessing it refuses in one line. `preprocess.py` is the preprocessing in numpy and OpenCV,
`PREPROCESSING.md` says it in words, and `example.npz` holds a scan (`volume`), what becomes of it (`slices`) and its
prediction, to try another implementation on."""

_HOW: Mapping[str, str] = {
    "safetensors": """```bash
{install}
{packages}slivit{switches} predict THIS_FOLDER scans/ -o predictions.csv
python predict.py scan.nii.gz       # the same in Python{environment}
```""",
    "onnx": _ALONE.format(packages="numpy opencv-python-headless onnxruntime nibabel pydicom Pillow"),
    "torch-export": _ALONE.format(packages="numpy opencv-python-headless torch nibabel pydicom Pillow"),
}


def how_to_use(
    format: str,
    plugins: Collection[str] = (),
    adapter: Mapping[str, Any] | None = None,
    inputs: Sequence[Mapping[str, Any]] = (),
) -> str:
    """How an export is used, in Markdown.

    Args:
        format: "safetensors", "onnx" or "torch-export".
        plugins: that the model was made with, by name; the graphs of the other formats need none.
        adapter: what the config says of adapters, of a model that holds those and a head alone.
        inputs: the covariates that the model reads, as the task has them.
    """
    text = _HOW[format]
    named = [c["name"] for c in inputs if c["name"] not in GEOMETRY_COLUMNS]
    if format != "safetensors":
        beside = _READS.format(names=", ".join(named)) if named else ""
        return text.format(known="".join(f" {name}=..." for name in named)) + beside
    packages = f"pip install {' '.join(plugins)}\n" if plugins else ""
    switches = "".join(f" --plugin {name}" for name in plugins)
    environment = f"; needs SLIVIT_PLUGINS={','.join(plugins)}" if plugins else ""
    needs = "" if adapter is None else _ADAPTER.format(**adapter)
    text = text.format(install=install_command(), packages=packages, switches=switches, environment=environment)
    table = f"\n\nIt reads covariates: give scans as a table with the columns {', '.join(named)}." if named else ""
    return text + needs + table


_READS = (
    "\n\nThe model reads {names} beside the slices: `NAME=VALUE` on the command line, `NAME=` where it is missing: "
    'the input `covariates`, whose numbers `preprocessing.json` describes under "task", "inputs".'
)


_ADAPTER = (
    "\n\nThis model holds adapters and a head alone. It needs the backbone {backbone} as well, whose tensors have the "
    "SHA-256 digest `{sha256}`; where it was trained it was loaded from `{start}`. Give it with `--backbone PATH`, in "
    'Python with `backbone="PATH"`, or put it into the folder that `SLIVIT_WEIGHTS` names. No other one is taken.'
)


SAFETY: Mapping[str, str] = {
    "safetensors": (
        "The weights are numbers alone (safetensors), and nothing in this folder is pickled: `slivit.from_pretrained` "
        "and `slivit predict` run no code of it. `predict.py` is a program; run it if you trust who sent it."
    ),
    "onnx": (
        "`model.onnx` is a graph of known operations with its weights, and runs no code of its own. `predict.py` and "
        "`preprocess.py` are programs; run them if you trust who sent them."
    ),
    "torch-export": (
        "`model.pt2` was written without a pickle in it, and `predict.py` refuses one that holds any. But "
        "`torch.export.load` is not made for files of strangers: it would unpickle what is in them, and evaluates "
        "expressions of the graph. Open it only if you trust who sent it and the fingerprint (the SHA-256 of "
        "`SHA256SUMS`) is the one they told you; otherwise ask for the format safetensors or onnx."
    ),
}


def preprocessing_page(p: Mapping[str, Any], input: str, output: str) -> str:
    """`PREPROCESSING.md`: all that lies between a scan and its prediction.

    Args:
        p: a `Preprocessing` as plain values.
        input: what the graph calls its input.
        output: what it calls its output.
    """
    return f"""# From a scan to a prediction

{described_preprocessing(p)}

The model takes `{input}`, (batch, slices, rows, columns) uint8, and gives `{output}`, (batch, outputs) float32:
probabilities, or values in the target's unit. A temperature, where `preprocessing.json` holds one under
`operating_point`, divides the logits of a scan's probabilities (their logarithms where classes exclude each other,
before they are normalised again). A scan is called positive where its probability is at least the threshold there.

`example.npz` holds a scan (`volume`), its `slices` after these steps, and its `prediction` before any temperature:
another implementation must give the same slices, pixel by pixel. `preprocess.py` is one.
"""


def described_preprocessing(p: Mapping[str, Any]) -> str:
    """The steps of a preprocessing as a numbered list, exact enough to be written again.

    Args:
        p: a `Preprocessing` as plain values.
    """
    return "\n".join(f"{number}. {step}" for number, step in enumerate(_steps(p), start=1))


def described_patches(p: Mapping[str, Any]) -> str:
    """The steps of the preprocessing of a segmentation, and of what follows, as a numbered list.

    Args:
        p: a `Preprocessing` as plain values.
    """
    from slivit.data.sliding import Sliding

    sliding, size = Sliding(**(p.get("sliding") or {})), " x ".join(map(str, p["size"]))
    cut = [f"window {p['window']}"] * bool(p["window"]) + [f"percentiles {p['stretch']}"] * bool(p["stretch"])
    scale = "brought to 0 and 1" if sliding.values == "range" else "cut off there; then mean 0, standard deviation 1"
    steps = [
        f"The values of each channel are {scale} ({', '.join(cut) or 'minimum and maximum'}).",
        f"The grid is resampled linearly to {p['spacing']} mm (slices, rows, columns; 0 keeps an axis)."
        if p["spacing"]
        else "The grid of the scan is kept.",
        f"Windows of {size} voxels with an overlap of {sliding.overlap:g} are predicted and blended ({sliding.blend}).",
        "Logits are resampled linearly to the scan's own voxels before a label is chosen.",
    ]
    after = {"largest": "only the largest part of each structure is kept", "fill_holes": "holes are filled"}
    steps += [f"{words[0].upper()}{words[1:]}." for key, words in after.items() if getattr(sliding, key)]
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))


def _steps(p: Mapping[str, Any]) -> Iterator[str]:
    slices = p["size"][0]
    yield (
        "A scan is an array of D slices of rows and columns, grey, in the values that its format stores after "
        "rescaling (HU for CT). Axial slices run from inferior to superior, rows from anterior to posterior, columns "
        "from the patient's right to the left; coronal and sagittal rows run from superior to inferior."
        + (f" Reading options: {p['reader']}." if p.get("reader") else "")
    )
    if rule := p.get("foreground"):
        yield _foreground(rule)
    if planes := p.get("planes"):
        yield (
            f"The scan is turned into {', '.join(planes)} slices by flips and swaps of axes (of a scan without an "
            "orientation: across slices, rows and columns). Each is taken through the steps below, "
            f"{slices // len(planes)} slices of each, black and white those of the whole scan; the stacks are put "
            "behind one another."
        )
    if p.get("channels"):
        yield (
            f"A scan has {len(p['channels'])} channels on one grid, in this order: {', '.join(p['channels'])}. Each "
            "goes through the steps below by itself, and they are stacked: (C, D, H, W)."
        )
    yield from _slice_steps(p)
    if p.get("windows"):
        w = p["windows"]
        yield (
            f"The scan is cut into windows of {slices} slices, one every {w['stride'] or slices}, the last moved back "
            f"to end with the last slice; the prediction is their {w['score']}{_k(w)}."
        )
    if p.get("flips"):
        yield (
            f"Predictions are the mean over all combinations of the mirrorings {', '.join(p['flips'])}; exported "
            "graphs do this themselves."
        )
    yield "The network's own scaling of the 8-bit values is part of every exported graph."


def _slice_steps(p: Mapping[str, Any]) -> Iterator[str]:
    """What happens to the slices of a scan, or of one of its planes and channels."""
    slices, height, width = p["size"]
    yield _which(p, slices)
    yield _intensities(p)
    rows, columns = p.get("resize") or (height, width)
    yield _slices_resized(p, rows, columns)
    if (p.get("spacing") or [0])[0]:
        yield _depth_resized(p, slices)
    elif p["sampling"] == "resample":
        yield _resampled(slices, p.get("rounded", True))
    if p.get("shuffle_slices") is not None:
        order = f"numpy.random.default_rng([{p['shuffle_slices']}, zlib.crc32(slices)]).permutation({slices})"
        yield f"The slices are brought into the order {order}."
    if (rows, columns) != (height, width):
        yield f"The middle {height} x {width} is cut out: from row (h - {height}) // 2, column (w - {width}) // 2."


def _foreground(rule: Mapping[str, Any]) -> str:
    threshold, percent = rule["threshold"], rule["unit"] == "percent"
    what = f"percentile {threshold} of the scan" if percent else f"{threshold}"
    if threshold == "otsu":
        what = "Otsu's threshold (256 bins between percentiles 0.1 and 99.9)"
    return (
        f"The scan is cropped to its foreground, which is above {what} (of large scans every n-th value counts, n = "
        f"values // 1000000, made odd): from the first to the last slice, row and column of which at least "
        f"{100 * rule['least']:g} % is foreground in any channel, with {rule['margin']:g} mm round it (voxels without "
        "spacing). Numbers and sizes below are those of the cropped scan."
    )


def _slices_resized(p: Mapping[str, Any], rows: int, columns: int) -> str:
    y, x = (p.get("spacing") or (0, 0, 0))[1:]
    how = "as OpenCV does on 8 bits: INTER_AREA where neither side grows, else INTER_LINEAR"
    how = "by Pillow's BILINEAR on 8 bits" if p.get("interpolation") == "bilinear" else how
    how += "; one that has that size already is left alone."
    if y:
        to = f"round(h * its spacing / {y:g}) x round(w * its spacing / {x:g}) (halves to even, at least 1)"
    elif p.get("fit") == "pad":
        to = f"the largest size that keeps its aspect (in mm, or in pixels without spacing) within {rows} x {columns}"
    else:
        return f"Every slice is resized to {rows} x {columns}, {how}"
    placed = f"It is cropped, or padded with 0, to {rows} x {columns} round its centre."
    return f"Every slice is resized to {to}, {how} {placed}"


def _depth_resized(p: Mapping[str, Any], slices: int) -> str:
    return (
        f"The stack is resized to round(D * its spacing / {p['spacing'][0]:g}) slices (at least 1), by INTER_AREA "
        "where they become fewer, else INTER_LINEAR, and cropped or padded with blank slices to "
        f"{slices} round its centre."
    )


def _k(windows: Mapping[str, Any]) -> str:
    return f" (k = {windows['k']})" if windows["score"] == "top_k" else ""


def _which(p: Mapping[str, Any], slices: int) -> str:
    if p.get("windows") or (p.get("spacing") or [0])[0]:
        return "All slices are used."
    how = {
        "even": f"Slice floor((i + 0.5) * D / {slices}) for i from 0 to {slices - 1}.",
        "middle": f"The {slices} slices from (D - {slices}) // 2 on.",
        "all": "All slices.",
        "linspace": f"numpy.linspace(0, D - 1, {slices}), rounded down.",
        "linspace_middle": (
            f"numpy.linspace(D // 2 - {slices // 2}, D // 2 + {slices // 2}, {slices}), kept within 0 and D - 1 and "
            "rounded down."
        ),
        "resample": (
            f"Those between which {slices} slices are interpolated: floor(x_i), and the next one where x_i is no whole "
            f"number, with x_i = (i + 0.5) * D / {slices} - 0.5, kept within 0 and D - 1."
        ),
    }[p["sampling"]]
    short = {
        "repeat": {
            "resample": "the same rule holds",
            "linspace": "the same rule holds",
            "linspace_middle": f"numpy.linspace(0, D - 1, {slices}), rounded down, repeats them",
        }.get(p["sampling"], "the same rule as for even slices repeats them"),
        "pad": "all of them are used, and blank slices (0 throughout) follow",
        "error": "the scan is refused",
    }[p["short"]]
    return f"{how} Where D is below {slices}, {short}."


def _intensities(p: Mapping[str, Any]) -> str:
    window, stretch = p.get("window"), p.get("stretch")
    if p.get("wrap"):
        return "A value v becomes the whole part of 255 v, modulo 256."
    if stretch:
        clipped = f", clipped to {list(window)} first" if window else ""
        ends = (
            f"low and high are percentile {stretch[0]:g} and {stretch[1]:g} of the finite values of the slices "
            f"used{clipped} (numpy.percentile, linear; a slice that is used twice counts twice), or their minimum and "
            "maximum where the two coincide."
        )
    elif window:
        ends = f"low and high are {window[0]:g} and {window[1]:g}."
    else:
        ends = "8-bit scans stay as they are (low 0, high 255); of others, low and high are the minimum and maximum."
    scaled = "255 * clip((v - low) / (high - low), 0, 1)"
    kind, become = "8 bits", f"round({scaled}) in float32, halves to even"
    if not p.get("rounded", True):
        kind, become = "numbers from 0 to 255", f"{scaled} in float32"
    return (
        f"Intensities become {kind}: {ends} v becomes {become}; what is not a number becomes 0, and so does everything "
        "where low = high."
    )


def _resampled(slices: int, rounded: bool) -> str:
    return (
        f"{slices} slices are interpolated linearly, slice i at x_i, between the two resized slices about it, by "
        f"OpenCV's addWeighted{' on 8 bits' if rounded else ''}."
    )
