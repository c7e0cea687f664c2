"""The official MedMNIST files: their names and MD5 sums, and where they are downloaded from."""

from __future__ import annotations

import hashlib
import re
import tomllib
import urllib.request
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from shutil import copyfileobj

from slivit.errors import ManifestError, WriteError, nearest, one_of
from slivit.files import whole_file

RECORD = "https://zenodo.org/records/10519652/files"
_OFFICIAL = re.compile(r"([a-z]+mnist(?:3d)?)(?:_(\d+))?\.npz")


@lru_cache(maxsize=1)
def official_files() -> dict[str, dict[str, str]]:
    """The MD5 sums of the official files by data set ("adrenalmnist3d") and pixels a side ("28", "64")."""
    return tomllib.loads((files("slivit.data") / "medmnist_files.toml").read_text("utf-8"))


def official_md5(name: str) -> str | None:
    """The MD5 sum that a file called so ("adrenalmnist3d_64.npz") has; None where the name is not an official one."""
    match = _OFFICIAL.fullmatch(name)
    return official_files().get(match[1], {}).get(match[2] or "28") if match else None


def fetch_medmnist(name: str, root: Path, download: bool = False, record: str = RECORD) -> Path:
    """Find a MedMNIST file by its name, such as "nodulemnist3d" or "nodulemnist3d@64", and download it if allowed.

    Args:
        name: a data set, with "@" and the pixels a side where they are not 28.
        root: the folder that holds the file, or is to hold it.
        download: whether it may be downloaded.
        record: the address of the folder that it is downloaded from.

    Raises:
        ManifestError: an unknown name, or a file that is neither there nor to be downloaded.
    """
    flag, _, size = name.partition("@")
    file = root / (f"{flag}_{size}.npz" if size else f"{flag}.npz")
    if file.is_file():
        return file
    if not download:
        raise ManifestError(
            f"{file}: no such file. Put it there (medmnist.com), set data.root to its folder, or set data.download = "
            "true."
        )
    known = official_files()
    if flag not in known:
        raise ManifestError(f'MedMNIST has no "{flag}".{nearest(flag, known)} It has {one_of(known)}.')
    if (size or "28") not in known[flag]:
        raise ManifestError(f"MedMNIST has {flag} at {' and '.join(known[flag])} pixels a side, not {size}.")
    root.mkdir(parents=True, exist_ok=True)
    _download(f"{record}/{file.name}", file, known[flag][size or "28"])
    return file


def _download(address: str, file: Path, md5: str) -> None:
    """Store a file, whole and with the sum that it should have, or not at all."""
    try:
        with urllib.request.urlopen(address, timeout=60) as stream, whole_file(file) as part:
            with part.open("wb") as out:
                copyfileobj(stream, out, 1 << 20)
            with part.open("rb") as written:
                actual = hashlib.file_digest(written, "md5").hexdigest()
            if actual != md5:
                raise ManifestError(f"{address}: what came has the MD5 {actual} instead of {md5}; try again")
    except WriteError:
        raise
    except OSError as error:
        raise ManifestError(
            f"{address}: cannot be downloaded ({error}). Get it in another way and put it into {file.parent}."
        ) from None
