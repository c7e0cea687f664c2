"""Published networks by name: where their weights are, under which licence, and what input they were trained on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from slivit.errors import CheckpointError, RecipeError, nearest, one_of
from slivit.files import make_folder, whole_file, write_json

log = logging.getLogger(__name__)
FOLDER = "SLIVIT_WEIGHTS"
"""The environment variable that names a folder of weights that were fetched before."""
RECORD = "fetched.json"


class Start(BaseModel):
    """A published network.

    Args:
        name: in the table.
        title: what it is and what it learned from.
        model: the registered network whose backbone it starts.
        args: that network's arguments.
        file: what the file of weights is called.
        hub: the repository on Hugging Face's hub; empty where it is elsewhere.
        revision: commit or branch there.
        url: the file's address, where it is not on the hub.
        page: where a person finds it, where no program may fetch it.
        gated: the hub asks each user to accept terms first.
        licence: of the weights.
        restricts: what the licence forbids, in words; it is then accepted before the weights are fetched.
        citation: the paper.
        tested: on what the conversion was tested.
        checked: where repository, file, licence and input were read, and what could not be.
        preprocessing: what the network was trained on: the keys of `[preprocessing]` that it needs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    model: str
    args: dict[str, Any] = Field(default_factory=dict)
    file: str
    hub: str = ""
    revision: str = "main"
    url: str = ""
    page: str = ""
    gated: bool = False
    licence: str
    restricts: str = ""
    citation: str
    tested: str
    checked: str
    preprocessing: dict[str, Any] = Field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where a person finds it."""
        return self.page or self.url or f"https://huggingface.co/{self.hub}"

    @property
    def terms(self) -> str:
        """The licence and what it forbids."""
        return f"{self.licence}{f' ({self.restricts})' if self.restricts else ''}"


@cache
def starts() -> Mapping[str, Start]:
    """All published networks by name."""
    table = tomllib.loads(Path(__file__).with_name("starts.toml").read_text("utf-8"))
    return {name: Start(name=name, **values) for name, values in table.items()}


def find_start(name: str) -> Start:
    """A published network.

    Raises:
        CheckpointError: none of that name.
    """
    if name not in starts():
        raise CheckpointError(
            f'there is no published network "{name}".{nearest(name, starts())} There are {one_of(starts())}; slivit '
            "list weights shows them"
        )
    return starts()[name]


def weights_folder() -> Path:
    """Where weights are kept: the folder of SLIVIT_WEIGHTS, or the user's own cache."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(os.environ[FOLDER]).expanduser() if os.environ.get(FOLDER) else cache_home / "slivit" / "weights"


def fetched(start: Start) -> Path | None:
    """The file of a published network's weights on this machine; None where it is not here.

    Looked into are `weights_folder`, Hugging Face's cache and torch's.
    """
    import torch
    from huggingface_hub import try_to_load_from_cache

    for place in (weights_folder() / start.file, weights_folder() / start.name / start.file):
        if place.is_file():
            return place
    if start.hub:
        kept = try_to_load_from_cache(start.hub, start.file, revision=start.revision)
        return Path(kept) if isinstance(kept, str) else None
    kept_by_torch = Path(torch.hub.get_dir()) / "checkpoints" / start.file
    return kept_by_torch if kept_by_torch.is_file() else None


def locate(name: str) -> Path:
    """The file of weights of a published network, fetched where it is not here and its terms allow.

    Raises:
        CheckpointError: it is not here and cannot be had; the message tells what to fetch and where to put it.
    """
    start = find_start(name)
    path = fetched(start)
    if path is None:
        if start.restricts and not _record().get(name, {}).get("accepted"):
            raise CheckpointError(
                f"{name}: its weights are not on this machine, and are under {start.terms}. Read and accept that once: "
                f"slivit weights get {name}"
            )
        path = get(name)
    _check_digest(start, path)
    return path


def get(name: str, accept: Callable[[Start], bool] | None = None) -> Path:
    """Fetch the weights of a published network, once.

    Args:
        name: in the table.
        accept: is asked whether the terms of restricted weights are accepted, where that was not said before.

    Returns:
        The file.

    Raises:
        CheckpointError: terms that are not accepted, no network, or weights that a person must fetch.
    """
    start = find_start(name)
    known = _record().get(name, {})
    if start.restricts and not known.get("accepted") and not (accept and accept(start)):
        raise CheckpointError(f"{name}: its weights are under {start.terms}; nothing is fetched before you accept that")
    _keep(name, {"accepted": start.licence})
    path = fetched(start)
    if path is None:
        log.info("%s: %s; %s; %s", name, start.address, start.terms, start.citation)
        path = _from_hub(start) if start.hub else _from_url(start)
    _check_digest(start, path)
    return path


def _from_hub(start: Start) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(start.hub, start.file, revision=start.revision))
    except Exception as error:  # what the hub's client, its HTTP library and the operating system raise
        raise CheckpointError(_way_out(start, error)) from error


def _from_url(start: Start) -> Path:
    import torch

    if not start.url:
        raise CheckpointError(_way_out(start, "no program may fetch it"))
    path = weights_folder() / start.file
    try:
        make_folder(path.parent)
        with whole_file(path) as partial:
            torch.hub.download_url_to_file(start.url, str(partial), progress=False)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(_way_out(start, error)) from error
    return path


def _way_out(start: Start, why: object) -> str:
    """What to fetch, and where to put it."""
    gate = " (accept its terms there; then huggingface-cli login, or fetch it by hand)" if start.gated else ""
    return (
        f"{start.name}: the file {start.file} cannot be had ({str(why).splitlines()[0][:200]}). Fetch it from "
        f"{start.address}{gate}, and put it into {weights_folder()}, or the folder that {FOLDER} names"
    )


def _record() -> dict[str, dict[str, str]]:
    """What was accepted and fetched on this machine, by name."""
    try:
        values = json.loads((weights_folder() / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _keep(name: str, facts: Mapping[str, str]) -> None:
    record = _record()
    make_folder(weights_folder())
    write_json(weights_folder() / RECORD, record | {name: {**record.get(name, {}), **facts}})


def _check_digest(start: Start, path: Path) -> None:
    """Keep the digest of a file when it is first seen, and refuse another file of the same name later.

    Raises:
        CheckpointError: the file changed since.
    """
    state = f"{path.stat().st_size}:{path.stat().st_mtime_ns}"
    known = _record().get(start.name, {})
    if known.get("state") == state:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if known.get("sha256", digest) != digest:
        raise CheckpointError(
            f"{path}: is another file than the one that {start.name} was before (SHA-256 {digest[:16]}..., it was "
            f"{known['sha256'][:16]}...). Where that is meant, take the entry out of {weights_folder() / RECORD}"
        )
    _keep(start.name, {"sha256": digest, "state": state})


def fill_start(values: dict[str, Any]) -> dict[str, Any]:
    """Complete a recipe that names a published network: the network, its arguments, and the input it was trained on.

    Args:
        values: plain values of a recipe with `model.weights` or `model.pretrained`.

    Returns:
        The same, completed where they name one of `starts()`; others as they are.

    Raises:
        RecipeError: a network or an input that is not the published one's.
    """
    model = values.get("model")
    if not isinstance(model, Mapping):
        return values
    name = str(model.get("weights") or model.get("pretrained") or model.get("name") or "")
    if name not in starts() or Path(name).exists():
        return values
    start = starts()[name]
    if name == start.model and not (model.get("weights") or model.get("pretrained")):
        return values  # the network of that name, without weights
    rest = {k: v for k, v in model.items() if k != "pretrained" and not (k == "name" and v == name)}
    wanted = {"name": start.model, **start.args, "weights": name}
    given = dict(values.get("preprocessing") or {})
    problems = [f"model.{k} is {rest[k]!r}, and {name} is for {v!r}" for k, v in wanted.items() if rest.get(k, v) != v]
    problems += [
        f"preprocessing.{k} is {given[k]!r}, and {name} was trained with {v!r}"
        for k, v in start.preprocessing.items()
        if k in given and _plain(given[k]) != _plain(v)
    ]
    if problems:
        raise RecipeError(
            f"{name}: {'; '.join(problems)}. Leave it out, or give the file of weights by its path to use it otherwise"
        )
    return values | {"model": wanted | rest, "preprocessing": start.preprocessing | given}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
