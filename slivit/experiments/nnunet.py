"""nnU-Net as a method to compare with: the same scans and splits as its data set, its own commands, its masks measured.

nnU-Net stays in an environment of its own, as its package asks for an older timm than slivit's: only its commands are
called, and nothing of it is imported.

Paper: Isensee et al. 2021, nnU-Net (doi:10.1038/s41592-020-01008-z; arXiv:1904.08128).
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from slivit.data.case import mask_options, read_mask, read_scan
from slivit.data.preprocessing import Preprocessing
from slivit.data.readers import read_volume
from slivit.errors import ReadError, RecipeError
from slivit.evaluate.masks import measure_masks, score_rows, write_cases
from slivit.files import make_folder, read_json, write_json
from slivit.folder import SPLIT, logged, open_results
from slivit.predict.masks import Segmented, nifti_of
from slivit.settings import Section
from slivit.targets.cases import describe_splits
from slivit.targets.segmentation import IGNORED, Segmentation
from slivit.train.recipe import FinetuneRecipe
from slivit.train.scans import Part, labelled_scans

log = logging.getLogger(__name__)
NUMBER, NAME = 1, "Dataset001_slivit"
"""The data set; each comparison has folders of its own, so that there is one alone."""
SETTINGS = "nnunet.json"
PLAN, TRAIN, PREDICT = "nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict"


class NnUNet(Section):
    """How nnU-Net is called.

    Args:
        configuration: "3d_fullres", "2d" or "3d_lowres".
        trainer: one of nnU-Net's trainers; "nnUNetTrainer" has 1,000 epochs of 250 steps, "nnUNetTrainer_50epochs" 50.
        ct: values are HU, whose normalisation nnU-Net takes from all scans; each scan's own otherwise.
        device: "cuda", "cpu" or "mps".
        workers: processes that prepare and write scans.
        commands: the folder of nnU-Net's commands (the bin of its environment); those on the PATH where empty.
    """

    configuration: Literal["2d", "3d_fullres", "3d_lowres"] = "3d_fullres"
    trainer: str = "nnUNetTrainer"
    ct: bool = False
    device: Literal["cuda", "cpu", "mps"] = "cuda"
    workers: int = 2
    commands: str = ""

    def command(self, name: str) -> str:
        """Where one of nnU-Net's commands is.

        Raises:
            RecipeError: it is not there.
        """
        program = shutil.which(name, path=self.commands or None)
        if program is None:
            where = self.commands or "the PATH"
            raise RecipeError(
                f"nnU-Net's command {name} is not in {where}; install nnunetv2 in an environment of its own (its "
                "package asks for an older timm than slivit's), and name the bin of that with --commands"
            )
        return program


def run(recipe: FinetuneRecipe, out: Path, how: NnUNet | None = None, *, overwrite: bool = False) -> Path:
    """Train and test nnU-Net on the scans of a recipe; called again, it goes on where it stopped.

    Of the recipe count the scans, their splits, the task and `testing`.

    Args:
        recipe: of a segmentation.
        out: the folder.
        how: nnU-Net is called.
        overwrite: begin anew.

    Returns:
        The folder, which `slivit compare` takes as it takes a run: `cases.csv`, `metrics.json`, `masks`.

    Raises:
        RecipeError: another kind of task, a command that is not there or failed, or a folder of something else.
    """
    how = how or NnUNet()
    task = recipe.task
    if not isinstance(task, Segmentation):
        raise RecipeError(f"nnU-Net segments, and the task of the recipe is a {task.kind} one")
    if task.regions and task.label_of_regions() is None:
        raise RecipeError("nnU-Net writes one map of labels, which cannot tell these regions; leave task.regions out")
    commands = {name: how.command(name) for name in (PLAN, TRAIN, PREDICT)}
    recipe.check()
    scans = labelled_scans(recipe)
    scans.check_masks(recipe.preprocessing)
    (part,) = scans.parts
    with logged(_opened(out, _settings(part, how), overwrite=overwrite)):
        part.manifest.to_csv(out / SPLIT)
        place = out / "nnunet"
        _done_once(place / "raw", lambda: write_dataset(part, recipe.preprocessing, place / "raw" / NAME, ct=how.ct))
        _predicted(how, commands, part, place)
        _measured(part, recipe, out)
    return out


def _settings(part: Part, how: NnUNet) -> dict[str, Any]:
    """What a folder was made for: how nnU-Net is called, the task, and the cases by their names there."""
    cases = {name: [str(row["path"]), str(row["split"])] for name, row in named(part).items()}
    task = part.task.model_dump(mode="json")
    return {"nnunet": how.model_dump(mode="json", exclude={"commands", "workers"}), "task": task, "cases": cases}


def _opened(out: Path, settings: Mapping[str, Any], *, overwrite: bool) -> Path:
    """The folder, new or one that was begun with the same settings."""
    file = out / SETTINGS
    if file.is_file() and not overwrite:
        if read_json(file) != settings:
            raise RecipeError(f"{file}: was begun with other scans or settings; --overwrite begins anew")
        return out
    open_results(out, overwrite=overwrite)
    shutil.rmtree(out / "nnunet", ignore_errors=True)
    write_json(file, settings)
    return out


def _done_once(folder: Path, work: Callable[[], Any]) -> None:
    """Do a part of the work, unless it was done to its end."""
    if not (folder / "done").is_file():
        work()
        make_folder(folder)
        (folder / "done").touch()


# -- the data set -----------------------------------------------------------------------------------------------------


def named(part: Part) -> dict[str, Mapping[str, Any]]:
    """The rows by the names that their cases have in nnU-Net's folders."""
    return {f"case_{number:05d}": row for number, row in enumerate(part.rows("train", "val", "test"))}


def write_dataset(part: Part, settings: Preprocessing, folder: Path, *, ct: bool = False) -> None:
    """Write a labelled set as nnU-Net has it: `dataset.json`, `imagesTr`, `labelsTr`, `imagesTs`.

    Scans are written as they are stored, one NIfTI file a channel, masks with the numbers of labels from 1. What is to
    be predicted, the val and test rows, lies in `imagesTs`.

    Args:
        part: the set.
        settings: whose reader options count.
        folder: "DatasetNNN_name".
        ct: call the channels "CT", for which nnU-Net normalises HU over all scans.

    Raises:
        ReadError, ManifestError: a scan or mask that cannot be read.
    """
    import nibabel

    task: Any = part.task
    for name, row in named(part).items():
        volume = read_scan(row, settings)
        places = ["imagesTr"] * (row["split"] != "test") + ["imagesTs"] * (row["split"] != "train")
        for number, channel in enumerate(volume.by_channel()):
            image = nifti_of(channel.array.astype(np.float32), volume)
            for place in places:
                nibabel.save(image, make_folder(folder / place) / f"{name}_{number:04d}.nii.gz")
        if row["split"] != "test":
            mask = read_mask(row, volume, task, settings, part.data.align)
            mask[mask == IGNORED] = len(task.labels) + 1
            nibabel.save(nifti_of(mask, volume), make_folder(folder / "labelsTr") / f"{name}.nii.gz")
    write_json(folder / "dataset.json", described(part, ct=ct))


def described(part: Part, *, ct: bool = False) -> dict[str, Any]:
    """What `dataset.json` says: channels, labels or regions, and how many cases there are to train on."""
    task: Any = part.task
    numbers = {value: number for number, value in enumerate(task.labels.values(), 1)}
    channels = part.data.channels or ("scan",)
    labels: dict[str, Any] = {"background": 0}
    content: dict[str, Any] = {"channel_names": {str(i): "CT" if ct else name for i, name in enumerate(channels)}}
    if own := task.label_of_regions() if task.regions else None:
        labels |= {name: [numbers[value] for value in task.regions[name]] for name in own}
        content["regions_class_order"] = [numbers[value] for value in own.values()]
    else:
        labels |= {name: numbers[value] for name, value in task.labels.items()}
    labels |= {} if task.ignore is None else {"ignore": len(numbers) + 1}
    training = sum(row["split"] != "test" for row in named(part).values())
    return content | {"labels": labels, "numTraining": training, "file_ending": ".nii.gz"}


def splits_of(part: Part) -> list[dict[str, list[str]]]:
    """What `splits_final.json` says: the table's own split as the only fold."""
    rows = named(part).items()
    return [{split: [name for name, row in rows if row["split"] == split] for split in ("train", "val")}]


# -- nnU-Net's commands -----------------------------------------------------------------------------------------------


def _predicted(how: NnUNet, commands: Mapping[str, str], part: Part, place: Path) -> None:
    """Have nnU-Net plan, train and predict, each as far as it is not done yet."""
    raw, preprocessed, results, masks = (place / name for name in ("raw", "preprocessed", "results", "predicted"))
    number, workers = str(NUMBER), str(max(how.workers, 1))
    model = ["-tr", how.trainer, "-device", how.device]

    def call(command: str, *options: str) -> None:
        environment = {f"nnUNet_{f.name}": str(make_folder(f).absolute()) for f in (raw, preprocessed, results)}
        _call([commands[command], *options], environment | {"nnUNet_n_proc_DA": workers}, place / "log.txt")

    plan = ("-d", number, "-c", how.configuration, "-np", workers, "-npfp", workers, "--verify_dataset_integrity")
    _done_once(preprocessed, lambda: call(PLAN, *plan))
    write_json(preprocessed / NAME / "splits_final.json", splits_of(part))
    _done_once(results, lambda: call(TRAIN, number, how.configuration, "0", *model, "--c"))
    folders = ("-i", str(raw / NAME / "imagesTs"), "-o", str(make_folder(masks)))
    processes = ("-npp", workers, "-nps", workers)
    of_model = ("-d", number, "-c", how.configuration, "-f", "0", *model)
    _done_once(masks, lambda: call(PREDICT, *folders, *of_model, *processes))


def _call(command: Sequence[str], environment: Mapping[str, str], file: Path) -> None:
    """Run a command of nnU-Net, all that it says into a file.

    Raises:
        RecipeError: it failed.
    """
    log.info("%s (what it says: %s)", " ".join((Path(command[0]).name, *command[1:])), file)
    with file.open("a", encoding="utf-8") as said:
        done = subprocess.run(command, env=os.environ | environment, stdout=said, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        lines = [line for line in file.read_text("utf-8", errors="replace").splitlines() if line.strip()]
        raise RecipeError(f"{Path(command[0]).name} failed ({lines[-1] if lines else done.returncode}); see {file}")


# -- what it predicted ------------------------------------------------------------------------------------------------


def _measured(part: Part, recipe: FinetuneRecipe, out: Path) -> None:
    """Write the cases, metrics and masks of the val and test rows, as a run of ours does."""
    task: Any = part.task
    names = {str(row["path"]): name for name, row in named(part).items()}

    def segmented_of(row: Mapping[str, Any], _: str) -> Segmented:
        return read_back(out / "nnunet" / "predicted" / f"{names[str(row['path'])]}.nii.gz", row, task, settings)

    settings, rows = recipe.preprocessing, part.rows("val", "test")
    cases = score_rows(segmented_of, rows, task, settings, recipe.testing, out, align=part.data.align)
    data = describe_splits(part.manifest.frame, task)
    about = {"source": part.manifest.source, "external": False, "run": data}
    write_cases(out, cases, task, measure_masks(cases, task, recipe.testing, about))


def read_back(file: Path, row: Mapping[str, Any], task: Segmentation, settings: Preprocessing) -> Segmented:
    """A mask that nnU-Net wrote for a scan of `write_dataset`, on the scan's own voxels.

    Raises:
        ReadError: it is not there, or has other voxels than the scan.
    """
    volume = read_scan(row, settings)
    if not file.is_file():
        raise ReadError(f"{file}: nnU-Net wrote no such mask")
    numbers = read_volume(str(file), **mask_options(volume, row, settings)).array
    if numbers.shape != volume.shape:
        raise ReadError(f"{file}: has {numbers.shape} voxels, and the scan {volume.shape}")
    masks = [task.structure(numbers.astype(np.uint8), place) for place in range(len(task.structures))]
    return Segmented(volume, np.stack(masks))
