import json

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from slivit.cli.data import add_commands
from slivit.data import cache as cache_module
from slivit.data import content
from slivit.data.cache import SliceCache
from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.recipe import Data, cache_of
from slivit.errors import RecipeError
from slivit.files import size_text
from slivit.recipe import load_recipe
from slivit.train.prepare import recipe_for, run


@pytest.fixture
def recipe(tiny_recipe, tmp_path, blob_scans, monkeypatch):
    monkeypatch.setattr(content, "_RACY", 0)
    changes = {"fit.epochs": 1, "data.cache": str(tmp_path / "cache"), "preprocessing.sampling": "middle"}
    return str(tiny_recipe(tmp_path, blob_scans, **changes))


def command(*args, expect=0):
    app = typer.Typer()
    add_commands(app)
    done = CliRunner().invoke(app, [str(a) for a in args])
    assert done.exit_code == expect, done.output
    return done.output


def test_training_and_evaluation_find_all_that_was_prepared(recipe, tmp_path, monkeypatch):
    from slivit.evaluate import command as evaluate
    from slivit.recipe import finetune

    told = run(recipe_for(recipe, []), progress=False)
    assert (told.built, told.kept, told.failed) == (40, 0, ())

    def fail(path, settings):
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(cache_module, "load_slices", fail)
    folder = finetune(load_recipe("finetune", recipe))
    cached = evaluate.recipe_for(str(folder), [f"data.cache={tmp_path / 'cache'}", "data.workers=0"], None, None)
    evaluate.run(cached)
    assert (folder / "evaluation" / "predictions.csv").is_file()
    monkeypatch.undo()
    plain = finetune(load_recipe("finetune", recipe, ["data.cache=", f"out={tmp_path / 'plain'}"]))
    columns = ["path", "prob_bright"]
    tables = [pd.read_csv(f / "predictions.csv")[columns] for f in (folder, plain)]
    pd.testing.assert_frame_equal(*tables)


def test_a_manifest_alone_is_prepared_for_a_model(tiny_slivit, blob_scans, tmp_path):
    model = [f"model.{k}={json.dumps(v)}" for k, v in tiny_slivit.items()]
    command("prepare", blob_scans, *model, "--cache", tmp_path / "cache", "--workers", 0)
    cache = SliceCache(tmp_path / "cache")
    group = cache.info().groups[0]
    assert (group.scans, group.settings["size"]) == (40, [4, 32, 32])
    path = str(blob_scans.parent / "scan3.nii")
    settings = Preprocessing(size=(4, 32, 32))
    assert not cache.build(path, settings)
    assert (cache.load(path, settings) == load_slices(path, settings)).all()


def test_commands(recipe, tmp_path):
    folder = tmp_path / "cache"
    command("prepare", recipe, "--limit-gb", 1)
    told = command("cache", "info", folder)
    assert "40 scans" in told
    assert "4 x 32 x 32, sampling middle" in told
    command("cache", "clear", folder, "--unused-days", 1)
    assert SliceCache(folder).info().scans == 40
    assert "kB freed" in command("cache", "clear", folder)
    assert SliceCache(folder).info().scans == 0


def test_scans_that_cannot_be_read_are_named(tiny_slivit, blob_scans, tmp_path, caplog):
    (tmp_path / "bad.nii").write_bytes(b"no scan at all")
    frame = pd.DataFrame({"path": [str(tmp_path / "bad.nii"), str(blob_scans.parent / "scan0.nii")]})
    frame.to_csv(tmp_path / "two.csv", index=False)
    model = [f"model.{k}={json.dumps(v)}" for k, v in tiny_slivit.items()]
    told = command("prepare", tmp_path / "two.csv", *model, "--cache", tmp_path / "c", "--workers", 0, expect=2)
    assert "1 of 2 scans cannot be read" in told
    assert "bad.nii" in caplog.text


def test_mistakes(recipe, tmp_path):
    assert "data.cache is empty" in command("prepare", recipe, "data.cache=", expect=2)
    assert "is no cache" in command("cache", "info", tmp_path, expect=2)
    assert "--stage must be" in command("prepare", recipe, "--stage", "evaluate", expect=2)
    assert 'unknown key "fit"' in command("prepare", tmp_path / "my.csv", "fit.epochs=3", expect=2)
    with pytest.raises(RecipeError, match="cache_gb"):
        recipe_for(recipe, ["data.cache_gb=-1"])


def test_sizes_as_people_read_them():
    sizes = [size_text(n) for n in (0, 999, 1000, 12_345_678, 5 * 10**13)]
    assert sizes == ["0 B", "999 B", "1.0 kB", "12.3 MB", "50.0 TB"]


def test_the_limit_of_a_recipe_in_bytes(tmp_path):
    assert cache_of(Data(manifest="x.csv")) is None
    assert cache_of(Data(manifest="x.csv", cache=str(tmp_path / "a"))).max_bytes is None
    assert cache_of(Data(manifest="x.csv", cache=str(tmp_path / "a"), cache_gb=2.5)).max_bytes == 2_500_000_000
