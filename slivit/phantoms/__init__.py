"""Made-up scans with known answers, in real file formats: to try the product on, and to test it with.

Every scan is drawn from the seed and its own number alone, so scan 7 is the same whatever number of scans is made.
Some patients have two scans (both eyes, two visits), which share their anatomy, so that splits have to keep patients
apart. Gain, brightness and size differ at random from scan to scan: mean intensity does not give the answer away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from slivit.errors import nearest, one_of
from slivit.phantoms.cases import Case, PhantomError, make_options, plan_cases
from slivit.phantoms.folder import claim_folder, whole_scan, write_manifest
from slivit.plugins import load_plugins

__all__ = ["KINDS", "PhantomError", "kind_module", "make_phantoms", "register_phantoms"]

Progress = Callable[[Iterable[Any]], Iterable[Any]]

_KINDS = {
    "oct": "OCT volumes as folders of TIFF frames; target drusen (0 or 1)",
    "oct2d": "2D OCT images as JPEG in class folders NORMAL, DRUSEN, CNV and DME; target label",
    "echo": "apical four-chamber echocardiograms as AVI; targets ef (%) and ef_below_50 (0 or 1)",
    "liver": "liver MRI as DICOM series, one file a slice; target pdff (proton density fat fraction, %)",
    "brain": "brain MRI of two sequences as NIfTI with the mask of a tumour; targets mask, ml_oedema, ml_core",
    "ct": "chest CT as NIfTI in HU; target nodule (0 or 1)",
}
_PLUGGED: dict[str, ModuleType] = {}
KINDS: Mapping[str, str] = MappingProxyType(_KINDS)


def register_phantoms(kind: str, what: str, module: ModuleType) -> None:
    """Add a kind of made-up scan.

    Args:
        kind: its name.
        what: what is drawn, in which format, with which target; one line.
        module: with `DEFAULT_N`; a dataclass `Options`; `draw(case, options)`, which returns the scan and a dict of its
            answers; `scan_path(case)`, where it lies in the folder; and `save(scan, path, case, options)`.

    Example:
        >>> import my_package.cubes  # doctest: +SKIP
        >>> slivit.register_phantoms("cubes", "raw cubes of noise", my_package.cubes)  # doctest: +SKIP
    """
    if kind in _KINDS:
        raise ValueError(f"phantoms {kind!r} are registered twice")
    _KINDS[kind], _PLUGGED[kind] = what, module


def make_phantoms(
    kind: str,
    out: str | Path,
    n: int | None = None,
    seed: int = 0,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Path:
    """Write made-up scans and the manifest that gives their answers.

    Args:
        kind: one of `KINDS`.
        out: the folder to write to; new, empty, or made by an earlier call, whose scans are then replaced.
        n: how many scans (images for "oct2d"); None for the kind's own number.
        seed: scans of the same kind, number, seed and options are the same files.
        overwrite: write to a folder that holds other files too; a file of the same name is replaced.
        progress: wraps the list of scans, to show a bar (for example `tqdm.tqdm`).
        **options: sizes; the fields of the kind's `Options` (`kind_module(kind).Options`).

    Returns:
        The path of `manifest.csv` in `out`: one row a scan with `path` (relative to the manifest), `patient`, the
        target or targets, and further known answers.

    Raises:
        PhantomError: an unknown kind or option, a value that is not allowed, or a folder with foreign files.

    Example:
        >>> slivit.make_phantoms("oct2d", "phantoms", n=8, seed=0).name
        'manifest.csv'
    """
    module = kind_module(kind)
    out = Path(out)
    settings = make_options(module.Options, kind, options)
    cases = plan_cases(kind, module.DEFAULT_N if n is None else n, seed)
    made_with = {"kind": kind, "seed": int(seed), "options": asdict(settings)}
    claim_folder(out, [module.scan_path(case) for case in cases], made_with, overwrite=overwrite)
    rows = [_make_scan(module, case, settings, out) for case in (progress(cases) if progress else cases)]
    return write_manifest(out, rows)


def kind_module(kind: str) -> ModuleType:
    """The module of a kind: its `Options`, and `draw(case, options)` for a scan in memory with its answers.

    Args:
        kind: one of `KINDS`.

    Raises:
        PhantomError: there is no such kind.
    """
    load_plugins()
    if kind not in KINDS:
        raise PhantomError(f'phantoms: there is no kind "{kind}". Known: {one_of(KINDS)}.{nearest(kind, KINDS)}')
    return _PLUGGED.get(kind) or import_module(f"slivit.phantoms.{kind}")


def _make_scan(module: ModuleType, case: Case, settings: Any, out: Path) -> dict[str, Any]:
    scan, answers = module.draw(case, settings)
    with whole_scan(out / module.scan_path(case)) as draft:
        module.save(scan, draft, case, settings)
    return {"path": module.scan_path(case), "patient": case.patient_name, **answers}
