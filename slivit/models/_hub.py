"""Published weights by their identifier: fetched by the library that keeps them, and kept in its own cache.

Each function takes the model's name, for messages, and the identifier last, so that `partial` makes a hub of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slivit.errors import CheckpointError, nearest, one_of
from slivit.models._weights import read_weights

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
WAY_OUT = "Where there is no network, download the file elsewhere and give its path."


def fetch_url(name: str, urls: Mapping[str, str], identifier: str) -> dict[str, Any]:
    """Download a file from a fixed address; `urls` are the addresses by identifier.

    Raises:
        CheckpointError: an unknown identifier, or a file that cannot be had.
    """
    import torch

    if identifier not in urls:
        raise CheckpointError(
            f'{name}: there is no such weight file or folder "{identifier}", and no published weights of that name.'
            f"{nearest(identifier, urls)} There are {one_of(urls)}."
        )
    url = urls[identifier]
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", progress=False, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f'{name}: "{identifier}" cannot be had from {url} ({error}). {WAY_OUT}') from error


def fetch_torchvision(name: str, identifier: str) -> dict[str, Any]:
    """Download weights by torchvision's own identifier, such as "KINETICS400_V1", for its model `name`.

    Raises:
        CheckpointError: an unknown identifier, or a file that cannot be had.
    """
    from torchvision.models import get_model_weights

    return fetch_url(name, {entry.name: entry.url for entry in get_model_weights(name)}, identifier)


def fetch_hugging_face(name: str, published: str, identifier: str) -> dict[str, Any]:
    """Weights from Hugging Face's hub: from its cache on this machine, or else downloaded.

    Args:
        name: of the model, for messages.
        published: the weights that its definition names, as `owner/name`.
        identifier: others of the same owner as `owner/name`, or any as `hub:owner/name`. What may be the path of a
            file that is not there is never looked for on the hub.

    Raises:
        CheckpointError: no such repository, no weights in it, or no network.
    """
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    owner = published.partition("/")[0]
    if not identifier.startswith(("hub:", f"{owner}/")):
        raise CheckpointError(
            f'{name}: there is no such weight file or folder "{identifier}". Weights on Hugging Face\'s hub are '
            f"{owner}/NAME, such as {published}, or hub:OWNER/NAME"
        )
    identifier = identifier.removeprefix("hub:")
    try:
        return dict(read_weights(_cached_or_downloaded(identifier))[1])
    except (EntryNotFoundError, HFValidationError, OSError, ValueError) as error:
        raise CheckpointError(
            f'{name}: there is no such weight file or folder "{identifier}", and Hugging Face\'s hub gives no weights '
            f"for it ({str(error).splitlines()[0]}). {WAY_OUT}"
        ) from error


def _cached_or_downloaded(identifier: str) -> Path:
    """The first of the usual files, in the cache or, where it holds none of them, on the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for file in HUB_FILES:
        try:
            return Path(hf_hub_download(identifier, file, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
    try:
        return Path(hf_hub_download(identifier, HUB_FILES[0]))
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return Path(hf_hub_download(identifier, HUB_FILES[1]))
