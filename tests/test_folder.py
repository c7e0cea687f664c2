"""The folder of a run: held by one process, cleared by its own record, and what is left by runs that were killed."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from slivit.errors import ManifestError, RecipeError
from slivit.files import write_text
from slivit.folder import RECIPE, WRITTEN, RunFolder, identity, open_results, same_run
from slivit.folder.lock import OWNER
from slivit.recipe import load_recipe

RUN = 'out = "{out}"\nfit.lr = 1e-3\n[data]\nmanifest = "m.csv"\n[task]\nkind = "binary"\ntargets = ["t"]\n'


@pytest.fixture
def recipe(tmp_path):
    write_text(tmp_path / "recipe.toml", RUN.format(out=tmp_path / "run"))
    return lambda *changes: load_recipe("finetune", tmp_path / "recipe.toml", changes)


def begun(recipe, **how):
    """A run that has begun and trained: its folder."""
    with RunFolder.opened(recipe, **how) as folder:
        folder.begin()
        write_text(folder.file("progress.pt"), "an epoch")
    return folder.path


HOLD = """
import sys, time
from slivit.folder import RunFolder
from slivit.recipe import load_recipe
with RunFolder.opened(load_recipe("finetune", sys.argv[1])) as folder:
    folder.begin()
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(recipe, tmp_path):
    """Another process that works in the run's folder."""
    recipe()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "recipe.toml"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_folder_in_which_another_process_works_is_refused_by_its_number_and_host(recipe, holder, tmp_path):
    before = (tmp_path / "run" / RECIPE).read_bytes()
    reason = f"process {holder.pid} on {socket.gethostname()} works in this folder, since "
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(RecipeError, match=reason), RunFolder.opened(recipe("seed=5"), **how):
            pass
    assert (tmp_path / "run" / RECIPE).read_bytes() == before


def test_the_lock_of_a_killed_process_does_not_count(recipe, holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / "run" / OWNER).is_file()
    assert begun(recipe(), resume=True) == tmp_path / "run"
    assert not (tmp_path / "run" / OWNER).exists()


@pytest.mark.parametrize(("silent", "free"), [(0, False), (3600, True)])
def test_an_owner_on_another_machine_counts_as_long_as_it_gives_signs_of_life(recipe, tmp_path, silent, free):
    path = begun(recipe())
    write_text(path / OWNER, json.dumps({"process": 7, "born": 1.0, "host": "elsewhere", "since": "noon"}))
    os.utime(path / OWNER, (time.time() - silent,) * 2)
    if free:
        begun(recipe(), resume=True)
        return
    with pytest.raises(RecipeError, match="process 7 on elsewhere works in this folder, since noon"):
        begun(recipe(), resume=True)


def test_a_later_process_of_the_same_number_is_not_the_owner(recipe):
    path = begun(recipe())
    write_text(path / OWNER, json.dumps({"process": os.getpid(), "born": 1.0, "host": socket.gethostname()}))
    assert begun(recipe(), resume=True) == path


def test_all_that_a_run_wrote_is_cleared_and_nothing_else(recipe):
    path = begun(recipe())
    with RunFolder.opened(recipe(), resume=True) as folder:
        folder.begin()
        for name in ("pictures/epoch_001.png", "aset/metrics.json"):
            write_text(folder.file(name), "of the first")
        write_text(path / "checkpoint" / "config.json", "{}")
        folder.file("checkpoint")
    open_results(path / "evaluation")
    write_text(path / "evaluation" / "metrics.json", "of the first")
    write_text(path / "my notes.txt", "of nobody")
    begun(recipe("seed=5"), overwrite=True)
    assert sorted(p.name for p in path.iterdir()) == [
        "log.txt", "my notes.txt", "progress.pt", "recipe.toml", "versions.json", "written.json"
    ]  # fmt: skip


def test_nothing_is_cleared_where_the_new_run_does_not_come_to_begin(recipe):
    path = begun(recipe())
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    with pytest.raises(ManifestError), RunFolder.opened(recipe("seed=5"), overwrite=True):
        raise ManifestError("the manifest is wrong")
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before


def test_a_new_run_that_trained_nothing_is_forgotten(recipe, tmp_path):
    def fails():
        with RunFolder.opened(recipe()) as folder:
            folder.begin()
            raise ManifestError("the manifest is wrong")

    with pytest.raises(ManifestError):
        fails()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("left", [(), ("versions.json",), (".recipe.draft-0123456789ab.toml", "versions.json")])
def test_a_run_killed_before_its_recipe_was_written_can_be_started_again(recipe, tmp_path, left):
    path = tmp_path / "run"
    names = [name for name in left if not name.startswith(".")]
    for name in left:
        write_text(path / name, "half")
    if names:
        write_text(path / WRITTEN, json.dumps({"names": names}))
    assert begun(recipe()) == path
    assert not list(path.glob(".recipe*"))


def test_leftovers_of_killed_writes_are_cleared_at_the_next_open(recipe):
    path = begun(recipe())
    write_text(path / ".progress.draft-0123456789ab.pt", "half")
    begun(recipe(), resume=True)
    assert not [p for p in path.iterdir() if p.name.startswith(".")]


def test_messages_before_a_run_begins_are_in_its_log(recipe):
    import logging

    with RunFolder.opened(recipe()) as folder:
        logging.getLogger("slivit.test").info("read before")
        folder.begin()
        logging.getLogger("slivit.test").info("said after")
        write_text(folder.file("progress.pt"), "an epoch")
    lines = (folder.path / "log.txt").read_text().splitlines()
    assert [line.rpartition(" INFO ")[2] for line in lines] == ["read before", "said after"]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("out=elsewhere", True), ("data.workers=7", True), ("data.cache=c", True), ("data.cache_gb=3", True),
        ("data.download=true", True), ("fit.device=cpu", True), ("testing.draws=7", True),
        ("logging.tracker=mlflow", True), ("seed=1", False), ("fit.precision=bfloat16", False),
        ("data.train_fraction=0.5", False), ("model.weights=w", False), ("preprocessing.stretch=false", False),
    ],
)  # fmt: skip
def test_what_makes_a_run_another_one(recipe, change, same):
    assert same_run(recipe(), recipe(change)) is same
    assert (identity(recipe()) == identity(recipe(change))) is same


def test_a_run_does_not_go_on_with_another_recipe(recipe):
    begun(recipe())
    with pytest.raises(RecipeError, match=r"recipe\.toml: differs from the recipe given"):
        begun(recipe("seed=1"), resume=True)


def test_a_folder_that_is_not_empty_names_what_is_there(recipe, tmp_path):
    write_text(tmp_path / "run" / "thesis.txt", "mine")
    with pytest.raises(RecipeError, match=r"is not empty \(thesis.txt\); go on with --resume"):
        begun(recipe())
    assert [p.name for p in Path(tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_run_killed_while_it_tidied_up_goes_on_and_only_a_tidy_one_is_finished(recipe):
    made = begun(recipe())
    for name in recipe().results:
        write_text(made / name, "a result")
    with RunFolder.opened(recipe(), resume=True) as folder:
        assert not folder.finished
        folder.finish()
        assert folder.finished
    with pytest.raises(RecipeError, match="is finished"):
        begun(recipe(), resume=True)


def test_the_record_of_a_run_says_what_its_weights_were_computed_on():
    from slivit.device import computed_on

    found = computed_on("cpu", "float32")
    assert found["precision"] == "float32"
    assert found["threads"] == torch.get_num_threads()
    assert found["processor"]
