"""What only people know of a model: who made it, what it is for, under which licence."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from slivit.errors import CheckpointError, gather, nearest, one_of


class CardNotes(BaseModel):
    """The parts of a model card that its makers write, as a TOML file; what is left out is said to be missing.

    Args:
        name: of the model.
        authors: who made it.
        contact: whom to ask.
        licence: an identifier of Hugging Face's list ("apache-2.0", "cc-by-nc-4.0"), or words.
        intended_use: who may use it for what.
        out_of_scope: what it is not for.
        data: where the training scans come from: hospitals, devices, years, how labels were made.
        limits: what is known to go wrong.
        ethics: approvals and consent.
        citation: how to cite the model, as BibTeX or words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    authors: str = ""
    contact: str = ""
    licence: str = ""
    intended_use: str = ""
    out_of_scope: str = ""
    data: str = ""
    limits: str = ""
    ethics: str = ""
    citation: str = ""


def read_notes(path: str | Path | None) -> CardNotes:
    """Read the notes for a card; None gives empty ones.

    Raises:
        CheckpointError: no such file, no TOML, or unknown keys.
    """
    if path is None:
        return CardNotes()
    try:
        values = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the notes for the card cannot be read: {error}") from error
    try:
        return CardNotes(**values)
    except ValidationError as error:
        known = list(CardNotes.model_fields)
        keys = [str(e["loc"][0]) for e in error.errors()]
        problems = [f'"{k}" is not text or not a key.{nearest(k, known)} Allowed are {one_of(known)}' for k in keys]
        gather(problems, str(path), CheckpointError)
        raise
