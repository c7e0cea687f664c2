"""Features on disk: computed once for a network, a preprocessing and a scan's content, and found again by these.

    FOLDER/CACHEDIR.TAG                 marks the folder; backups leave it out
    FOLDER/contents/ab/ab12.json        the digest of a scan's files, and what they looked like when it was computed
    FOLDER/NETWORK/about.json           which network and preprocessing the features are of
    FOLDER/NETWORK/ab12.safetensors     the features of some scans; the header lists their digests, in order

Every file is written whole, so that an extraction that died goes on where it was, and several may share a folder.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slivit.data.content import Digests, files_of
from slivit.errors import ReadError
from slivit.files import write_json, write_tensors, write_text

log = logging.getLogger(__name__)
FORMAT = 1
_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Features of scans; may be deleted at any time.\n"
_SCANS = "scans"  # the key of a file's header that lists digests


def weights_digest(module: nn.Module, without: str = "") -> str:
    """A number that stands for the tensors of a network and their names, in hexadecimal.

    Args:
        module: the network.
        without: tensors of a part with this name do not count.
    """
    import xxhash

    digest = xxhash.xxh3_128()
    for name, tensor in sorted(module.state_dict().items()):
        if without and name.startswith(f"{without}."):
            continue
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{plain.dtype}\0{tuple(plain.shape)}\0".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class FeatureStore:
    """The features of one network under one preprocessing, in a folder that many may share.

    Args:
        folder: made where it is not there.
        about: everything beside a scan that its features depend on, as plain values.
    """

    def __init__(self, folder: str | Path, about: Mapping[str, Any]) -> None:
        import xxhash

        self.root = Path(folder)
        text = json.dumps({"format": FORMAT, **about}, sort_keys=True)
        self.folder = self.root / xxhash.xxh3_128_hexdigest(text.encode())
        self._digests = Digests(self.root / "contents")
        if not (self.folder / "about.json").is_file():
            write_text(self.root / "CACHEDIR.TAG", _TAG)
            write_json(self.folder / "about.json", {"format": FORMAT, **about})

    def digest(self, path: str) -> str:
        """A number that stands for the content of a scan, wherever it lies.

        Raises:
            ReadError: its files cannot be looked at.
        """
        try:
            files = files_of(path)
            return f"{self._digests.of(path, files)}#{files.item}"
        except OSError as error:
            raise ReadError(f"{path}: its files cannot be looked at ({error.strerror or error})") from error

    def places(self) -> dict[str, tuple[Path, int]]:
        """Where the features of each scan are: file and row by digest."""
        places: dict[str, tuple[Path, int]] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            if not file.name.startswith("."):
                places |= {digest: (file, row) for row, digest in enumerate(_scans_of(file))}
        return places

    def add(self, digests: Sequence[str], parts: Mapping[str, Tensor]) -> None:
        """Keep the features of some scans.

        Args:
            digests: of the scans.
            parts: by name, (n, d) float32 in the order of `digests`.
        """
        import xxhash

        name = xxhash.xxh3_128_hexdigest("\0".join(digests).encode())
        write_tensors(self.folder / f"{name}.safetensors", parts, {_SCANS: json.dumps(list(digests))})

    def load(self, digests: Sequence[str]) -> dict[str, Tensor]:
        """The features of scans that are all there.

        Returns:
            By name of the part, (n, d) float32 in the order of `digests`.
        """
        from safetensors.torch import load_file

        places = self.places()
        files = {file: load_file(file) for file in {places[digest][0] for digest in digests}}
        rows = [places[digest] for digest in digests]
        names = next(iter(files.values()), {})
        return {name: torch.stack([files[file][name][row] for file, row in rows]) for name in names}


def _scans_of(file: Path) -> Iterator[str]:
    """The digests that a file lists; none where it is damaged, so that its features are computed anew."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            yield from json.loads(opened.metadata()[_SCANS])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        log.warning("%s: cannot be read (%s); its features are computed anew", file, error)
