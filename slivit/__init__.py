"""SLIViT for fastai: predict disease-risk factors from volumetric scans with few labels.

The public names below are imported when they are first used, so that `import slivit` is quick and needs no torch.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # whoever imports the package decides what is shown

_HOMES = {
    "Augmentation": "slivit.data.augmentation",
    "Checkpoint": "slivit.checkpoint",
    "ClipBlock": "slivit.data.blocks",
    "Columns": "slivit.data.manifest",
    "Fit": "slivit.train.recipe",
    "Manifest": "slivit.data.manifest",
    "ModelSpec": "slivit.models.registry",
    "Preprocessing": "slivit.data.preprocessing",
    "SharedModel": "slivit.sharing.hub",
    "Pretext": "slivit.ssl.pretext",
    "PretextFit": "slivit.ssl.recipe",
    "Run": "slivit.run",
    "SlivitError": "slivit.errors",
    "TargetBlock": "slivit.data.blocks",
    "Task": "slivit.targets.task",
    "TiledBlock": "slivit.data.blocks",
    "Volume": "slivit.volume",
    "VolumeBlock": "slivit.data.blocks",
    "VolumeInterpretation": "slivit.train.interpretation",
    "auto": "slivit.planned",
    "create_model": "slivit.models.registry",
    "create_pretext": "slivit.ssl.registry",
    "explain": "slivit.explanation",
    "find_lr": "slivit.train.learner",
    "finetune": "slivit.recipe",
    "fit_pretext": "slivit.ssl.learner",
    "from_pretrained": "slivit.sharing.hub",
    "list_models": "slivit.models.registry",
    "list_pretexts": "slivit.ssl.registry",
    "load_backbone": "slivit.models._weights",
    "load_checkpoint": "slivit.checkpoint",
    "load_encoder": "slivit.checkpoint",
    "load_published": "slivit.models._published",
    "load_recipe": "slivit.recipe",
    "load_slices": "slivit.data.preprocessing",
    "make_phantoms": "slivit.phantoms",
    "medmnist_manifest": "slivit.data.importers",
    "model_spec": "slivit.models.registry",
    "predict_table": "slivit.predict.engine",
    "preprocess": "slivit.data.preprocessing",
    "pretrain": "slivit.recipe",
    "pretext_dataloaders": "slivit.ssl.learner",
    "pretext_learner": "slivit.ssl.learner",
    "read_manifest": "slivit.data.manifest",
    "read_volume": "slivit.data.readers",
    "register_model": "slivit.models.registry",
    "register_phantoms": "slivit.phantoms",
    "register_reader": "slivit.data.readers",
    "register_pretext": "slivit.ssl.registry",
    "sample_slices": "slivit.data.slices",
    "save_backbone": "slivit.checkpoint",
    "save_checkpoint": "slivit.checkpoint",
    "tile_slices": "slivit.data.tiling",
    "untile_slices": "slivit.data.tiling",
    "volume_dataloaders": "slivit.data.blocks",
    "volume_learner": "slivit.train.learner",
}

__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from slivit.checkpoint import Checkpoint as Checkpoint
    from slivit.checkpoint import load_checkpoint as load_checkpoint
    from slivit.checkpoint import load_encoder as load_encoder
    from slivit.checkpoint import save_backbone as save_backbone
    from slivit.checkpoint import save_checkpoint as save_checkpoint
    from slivit.data.augmentation import Augmentation as Augmentation
    from slivit.data.blocks import ClipBlock as ClipBlock
    from slivit.data.blocks import TargetBlock as TargetBlock
    from slivit.data.blocks import TiledBlock as TiledBlock
    from slivit.data.blocks import VolumeBlock as VolumeBlock
    from slivit.data.blocks import volume_dataloaders as volume_dataloaders
    from slivit.data.importers import medmnist_manifest as medmnist_manifest
    from slivit.data.manifest import Columns as Columns
    from slivit.data.manifest import Manifest as Manifest
    from slivit.data.manifest import read_manifest as read_manifest
    from slivit.data.preprocessing import Preprocessing as Preprocessing
    from slivit.data.preprocessing import load_slices as load_slices
    from slivit.data.preprocessing import preprocess as preprocess
    from slivit.data.readers import read_volume as read_volume
    from slivit.data.readers import register_reader as register_reader
    from slivit.data.slices import sample_slices as sample_slices
    from slivit.data.tiling import tile_slices as tile_slices
    from slivit.data.tiling import untile_slices as untile_slices
    from slivit.errors import SlivitError as SlivitError
    from slivit.explanation import explain as explain
    from slivit.models._published import load_published as load_published
    from slivit.models._weights import load_backbone as load_backbone
    from slivit.models.registry import ModelSpec as ModelSpec
    from slivit.models.registry import create_model as create_model
    from slivit.models.registry import list_models as list_models
    from slivit.models.registry import model_spec as model_spec
    from slivit.models.registry import register_model as register_model
    from slivit.phantoms import make_phantoms as make_phantoms
    from slivit.phantoms import register_phantoms as register_phantoms
    from slivit.planned import auto as auto
    from slivit.predict.engine import predict_table as predict_table
    from slivit.recipe import finetune as finetune
    from slivit.recipe import load_recipe as load_recipe
    from slivit.recipe import pretrain as pretrain
    from slivit.run import Run as Run
    from slivit.sharing.hub import SharedModel as SharedModel
    from slivit.sharing.hub import from_pretrained as from_pretrained
    from slivit.ssl.learner import fit_pretext as fit_pretext
    from slivit.ssl.learner import pretext_dataloaders as pretext_dataloaders
    from slivit.ssl.learner import pretext_learner as pretext_learner
    from slivit.ssl.pretext import Pretext as Pretext
    from slivit.ssl.recipe import PretextFit as PretextFit
    from slivit.ssl.registry import create_pretext as create_pretext
    from slivit.ssl.registry import list_pretexts as list_pretexts
    from slivit.ssl.registry import register_pretext as register_pretext
    from slivit.targets.task import Task as Task
    from slivit.train.interpretation import VolumeInterpretation as VolumeInterpretation
    from slivit.train.learner import find_lr as find_lr
    from slivit.train.learner import volume_learner as volume_learner
    from slivit.train.recipe import Fit as Fit
    from slivit.volume import Volume as Volume


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'slivit' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
