"""Embeddings: a table of statistics and random projections, and heads on it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from typer.testing import CliRunner

from slivit.cli import app
from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.errors import SlivitError
from slivit.models.registry import create_model
from slivit.predict.features import features
from slivit.probing import extract as extracting
from slivit.probing.embedding import Embedder, EmbedRecipe, embed, projected, read_embeddings, write_embeddings
from slivit.probing.table import Linear, best_head, in_span
from slivit.recipe import check_recipe
from slivit.targets.task import Task

pytest.importorskip("pyarrow")
VIT = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
THREE = ["axial", "coronal", "sagittal"]


def recipe(out, scans, **values):
    plain = {
        "out": str(out),
        "data": {"manifest": str(scans), "workers": 0},
        "model": {"name": "slice_vit", "slices": 6, "image_size": 16, "backbone_args": VIT},
        "random_init": True,
        "raptor": 5,
        "precision": "float32",
        "preprocessing": {"planes": THREE},
    }
    return check_recipe(EmbedRecipe, plain | values, "a test")


@pytest.fixture(scope="module")
def table(blob_scans, tmp_path_factory):
    return embed(recipe(tmp_path_factory.mktemp("embedded") / "scans.parquet", blob_scans), progress=False)


def network():
    torch.manual_seed(0)
    args = {"slices": 6, "planes": 3, "image_size": 16, "backbone_args": VIT}
    return create_model("slice_vit", 1, **args).eval()


def test_what_is_kept_follows_from_one_pass_over_the_slices():
    model, x = network(), torch.randn(2, 3, 6, 16, 16)
    with torch.no_grad():
        out = features(Embedder(model, planes=3, raptor=7, by_slice=True), x)
        slices = model.forward_slices(x)
    coronal = slices[:, 2:4]
    torch.testing.assert_close(out["mean"][:, 16:32], coronal.mean(1))
    torch.testing.assert_close(out["max"][:, 16:32], coronal.amax(1))
    torch.testing.assert_close(out["spread"][:, 16:32], coronal.std(1, correction=0))
    torch.testing.assert_close(out["slices"].reshape(2, 6, 16), slices)
    assert out["raptor"].shape == (2, 3 * 4 * 7)


def test_raptor_averages_a_patch_over_the_slices_of_a_plane_and_projects_it():
    patches, projection = torch.randn(2, 6, 4, 16), torch.randn(16, 7)
    rows = projected(patches, 3, projection).reshape(2, 3, 4, 7)
    by_hand = patches[1, 4:6, 3].mean(0) @ projection
    torch.testing.assert_close(rows[1, 2, 3], by_hand)


def test_the_projections_are_the_same_for_every_scan_and_of_a_seed():
    one, two, other = (Embedder(network(), seed=seed).projection for seed in (0, 0, 1))
    assert one.shape == (16, 100)
    torch.testing.assert_close(one, two)
    assert not torch.equal(one, other)
    assert abs(float(one.std()) - 1) < 0.1


def test_the_table_holds_the_scans_their_labels_and_what_it_is_of(table, blob_scans):
    found = read_embeddings(table)
    assert len(found.frame) == 40
    assert {"path", "patient", "split", "bright"} <= set(found.frame)
    assert {n: tuple(p.shape) for n, p in found.parts.items()} == {
        "mean": (40, 48), "max": (40, 48), "spread": (40, 48), "raptor": (40, 3 * 4 * 5)}  # fmt: skip
    about = found.about
    assert about["preprocessing"]["planes"] == THREE
    assert len(about["network"]["weights"]) == 32
    assert about["network"]["args"]["embedding"]["raptor"] == 5


def test_a_row_is_what_the_network_makes_of_that_scan(table):
    found = read_embeddings(table)
    settings = Preprocessing(size=(6, 16, 16), planes=THREE)
    stack = torch.from_numpy(load_slices(found.frame["path"][7], settings))[None].float() / 255
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("slice_vit", 1, planes=3, slices=6, image_size=16, backbone_args=VIT).eval()
    x = (stack[:, None].expand(-1, 3, -1, -1, -1) - torch.tensor(model.spec.mean).view(1, 3, 1, 1, 1)) / torch.tensor(
        model.spec.std
    ).view(1, 3, 1, 1, 1)
    with torch.no_grad():
        wanted = model.forward_slices(x).unflatten(1, (3, 2)).mean(2).flatten(1)[0]
    torch.testing.assert_close(found.parts["mean"][7], wanted, rtol=1e-3, atol=1e-4)


def test_one_that_was_stopped_goes_on_and_an_earlier_table_is_not_lost(table, blob_scans, monkeypatch):
    with pytest.raises(SlivitError, match="is there already"):
        embed(recipe(table, blob_scans), progress=False)
    before = read_embeddings(table)
    computed = []
    original = extracting._keep
    monkeypatch.setattr(extracting, "_keep", lambda s, d, f: computed.append(len(d)) or original(s, d, f))
    embed(recipe(table, blob_scans), overwrite=True, progress=False)
    assert computed == [0]
    torch.testing.assert_close(dict(read_embeddings(table).parts), dict(before.parts))


def test_another_file_is_told(tmp_path, table):
    (tmp_path / "other.parquet").write_bytes(b"none")
    with pytest.raises(SlivitError, match="no table of embeddings"):
        read_embeddings(tmp_path / "other.parquet")
    again = write_embeddings(tmp_path / "again.parquet", read_embeddings(table))
    assert read_embeddings(again).about == read_embeddings(table).about


def test_a_table_of_somebody_is_held_to_its_types_and_to_memory(tmp_path, monkeypatch):
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "text": ["a", "b"],
        "nothing": pa.array([None, [1.0]], pa.list_(pa.float32(), 1)),
        "numbers": pa.array([[0.0], [1.0]], pa.list_(pa.float32(), 1)),
    }
    for name, values in columns.items():
        made = pa.table({"path": ["a", "b"], "embedding_mean": values}).replace_schema_metadata({"slivit": "{}"})
        parquet.write_table(made, tmp_path / f"{name}.parquet")
    for name in ("text", "nothing"):
        with pytest.raises(SlivitError, match="a set of embeddings has float32 in every row"):
            read_embeddings(tmp_path / f"{name}.parquet")
    assert read_embeddings(tmp_path / "numbers.parquet").parts["mean"].tolist() == [[0], [1]]
    monkeypatch.setenv("SLIVIT_MAX_SCAN_GB", "1e-9")
    with pytest.raises(SlivitError, match="promises 2 x 2 values"):
        read_embeddings(tmp_path / "numbers.parquet")


def test_a_linear_head_is_scikit_learn_s_also_with_more_features_than_scans(rng):
    x = {"train": torch.from_numpy(rng.normal(size=(20, 50))), "val": torch.from_numpy(rng.normal(size=(5, 50)))}
    x = {name: part - x["train"].mean(0) for name, part in x.items()}
    y = (x["train"][:, 0] > 0).long().numpy()
    small = in_span(x)
    assert small["train"].shape[1] <= 20
    for made in (LogisticRegression(C=0.5, tol=1e-8, max_iter=5000), Ridge(alpha=3.0)):
        said = []
        for features_ in (x, small):
            fitted = made.fit(features_["train"].numpy(), y)
            other = features_["val"].numpy()
            said.append(
                fitted.decision_function(other) if hasattr(fitted, "decision_function") else fitted.predict(other)
            )
        np.testing.assert_allclose(*said, rtol=1e-3, atol=1e-4)
    assert Linear(0.1, 20).regressor().alpha == 2.0


@pytest.mark.parametrize(
    ("kind", "targets"), [("binary", ("bright",)), ("regression", ("size",)), ("multiclass", ("size",))]
)
def test_heads_of_every_kind_are_tried_and_one_is_chosen(kind, targets, table):
    choice, manifest = best_head(read_embeddings(table), Task(kind=kind, targets=targets), features=["mean"], trees=10)
    assert set(choice.grid["head"].dropna()) == {"linear", "forest"}
    assert choice.grid["neighbours"].notna().any()
    assert choice.grid["chosen"].sum() == 1
    assert choice.predictions["test"].shape == (8, manifest.task.out_dim)


def test_the_commands_embed_and_probe(blob_scans, tmp_path):
    out = tmp_path / "scans.parquet"
    runner = CliRunner()
    args = ["embed", str(blob_scans), str(out), "--model", "slice_vit", "--random-init", "--planes", "3"]
    args += ["--raptor", "0", "model.slices=3", "model.image_size=16", "device=cpu", "data.workers=0"]
    args += [f"model.backbone_args.{key}={value}" for key, value in VIT.items()]
    done = runner.invoke(app, args)
    assert done.exit_code == 0, (done.output, done.exception)
    probe = [
        "probe",
        str(out),
        "--kind",
        "binary",
        "--target",
        "bright",
        'heads=["linear"]',
        "page=false",
        "testing.draws=20",
    ]
    done = runner.invoke(app, probe)
    assert done.exit_code == 0, (done.output, done.exception)
    results = tmp_path / "scans_probe"
    assert json.loads((results / "probe.json").read_text())["chosen"]["head"] == "linear"
    assert (results / "metrics.json").is_file()
    assert runner.invoke(app, [*probe, "--model", "slivit"]).exit_code == 2
    assert runner.invoke(app, ["embed", str(blob_scans)]).exit_code == 2
