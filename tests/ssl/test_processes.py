"""Several processes: two with half of the batch each give the losses of one, shares of weights too."""

import csv
import dataclasses
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from slivit.checkpoint import load_encoder
from slivit.data.images import SharedDL, seeded
from slivit.recipe import check_recipe
from slivit.ssl import registry
from slivit.ssl import run as selfsupervised
from slivit.ssl._images import grey, to_model
from slivit.ssl.losses.koleo import koleo_loss
from slivit.ssl.recipe import SelfSupervisedRecipe
from slivit.train.replicas import share_batch_norms

TINY_VIT = {"dim": 16, "depth": 2, "heads": 2, "slices": 32, "image_size": 32, "position_size": 32, "layer_scale": 1.0,
            "mask_token": True}  # fmt: skip
TINY_3D = {"large_size": 32, "small_size": 16, "small_crops": 2, "prototypes": 32, "patch_prototypes": 32,
           "head_hidden": 16, "bottleneck": 8, "augmentation": "none", "mask_ratio": (0.4, 0.4),
           "mask_share": 1.0}  # fmt: skip
TINY_RESNET = {"backbone": "resnet10t", "image_size": 32, "stride": 16,
               "backbone_args": {"channels": [8, 8, 16, 16], "stem_width": 8}}  # fmt: skip


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A manifest of 24 volumes of 20 x 24 x 24 voxels."""
    folder = tmp_path_factory.mktemp("scans")
    rows = ["path,patient,split"]
    for i in range(24):
        volume = np.random.default_rng(i).integers(0, 200, (20, 24, 24)).astype(np.uint8)
        volume[5:15, 6 + i % 6 : 18, 4:16] += 50
        tifffile.imwrite(folder / f"{i}.tif", volume, photometric="minisblack")
        rows.append(f"{i}.tif,P{i},{'val' if i >= 16 else 'train'}")
    (folder / "scans.csv").write_text("\n".join(rows))
    return folder / "scans.csv"


def recipe(method, scans, out, batch_size, **fit):
    values = {
        "method": method,
        "out": str(out),
        "data": {"manifest": str(scans), "workers": 0},
        "images": {"slices": 1},
        "model": {"name": "dino3d_vit_small", **TINY_VIT} if method == "dino3d" else TINY_RESNET,
        "pretext": TINY_3D if method == "dino3d" else {"hidden": 16, "projection": 8},
        "fit": {
            "epochs": 2,
            "lr": 1e-3,
            "batch_size": batch_size,
            "warmup": 0,
            "device": "cpu",
            "clip": 3.0,
            "precision": "float32",
            **fit,
        },
    }
    if method != "dino3d":
        values["model"] = {"name": "image_classifier", **values["model"]}
    return check_recipe(SelfSupervisedRecipe, values, "the tests")


def plain_views(patch):
    """SimCLR's views without chance: an image and its mirror image, which processes share out as they lie."""
    make = registry.create_pretext

    def views(spec, batch):
        images = grey(batch)
        return torch.cat([to_model(images, spec), to_model(images.flip(-1), spec)]), torch.arange(len(batch))

    def create(name, model, **settings):
        pretext = make(name, model, **settings)
        return pretext if name == "dino3d" else dataclasses.replace(pretext, views=lambda b: views(model.spec, b))

    patch(registry, "create_pretext", create)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def in_two(task, argument, folder):
    """Run a function of this file in two new processes, as a launcher would start them."""
    (folder / "argument.pickle").write_bytes(pickle.dumps(argument))
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, task.__name__, str(folder / "argument.pickle")]
    processes = [
        subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(600) for process in processes] == [0, 0]


def train(made):
    selfsupervised.run(made)


def go_on(made):
    selfsupervised.run(made, resume=True)


def history(folder):
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr", "dino3d"])
def test_two_processes_give_the_losses_of_one_with_the_same_batch(method, scans, tmp_path, monkeypatch):
    plain_views(monkeypatch.setattr)
    # Adam makes steps of full length out of gradients that are next to nothing, and so out of what is rounded.
    fit = {"optimiser": "sgd"} if method == "simclr" else {}
    selfsupervised.run(recipe(method, scans, tmp_path / "one", 8, **fit))
    in_two(train, recipe(method, scans, tmp_path / "two", 4, **fit), tmp_path)
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    for key in ("train_loss", "valid_loss"):
        np.testing.assert_allclose(two[key], one[key], rtol=2e-4)
    weights = [load_encoder(tmp_path / name).model.backbone.state_dict() for name in ("one", "two")]
    for key, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][key], tensor, rtol=2e-3, atol=2e-4)


@pytest.mark.slow
def test_shares_of_the_weights_train_alike_and_resume(scans, tmp_path):
    selfsupervised.run(recipe("dino3d", scans, tmp_path / "one", 8))
    two = recipe("dino3d", scans, tmp_path / "two", 4, shards=True, checkpoint_activations=True)
    in_two(run_that_dies, two, tmp_path)
    in_two(go_on, two, tmp_path)
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    for key in ("train_loss", "valid_loss"):
        np.testing.assert_allclose(two[key], one[key], rtol=1e-3)
    weights = [load_encoder(tmp_path / name).model.backbone.state_dict() for name in ("one", "two")]
    for key, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][key], tensor, rtol=2e-3, atol=5e-4)


def run_that_dies(made):
    """A run that dies at the end of its first epoch."""
    from slivit.train import callbacks

    kept = callbacks.SaveProgress.after_epoch

    def die(callback):
        kept(callback)
        raise KeyboardInterrupt

    callbacks.SaveProgress.after_epoch = die
    with pytest.raises(KeyboardInterrupt):
        selfsupervised.run(made)


def norms_and_koleo(folder):
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    norm = share_batch_norms(nn.Sequential(nn.BatchNorm2d(3)))
    mine = batch()[rank * 4 : rank * 4 + 4].requires_grad_()
    out = norm(mine)
    out.square().mul(torch.arange(3).view(3, 1, 1)).sum().backward()
    features = mine.detach().flatten(1).requires_grad_()
    loss = koleo_loss(features)
    loss.backward()
    saved = {"out": out, "grad": mine.grad, "state": norm.state_dict(), "koleo": loss, "slope": features.grad / 2}
    torch.save(saved, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def batch():
    return torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(3)) * 3 + 1


@pytest.mark.slow
def test_batch_norms_and_koleo_look_at_all_processes(tmp_path):
    in_two(norms_and_koleo, str(tmp_path), tmp_path)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    norm, whole = nn.Sequential(nn.BatchNorm2d(3)), batch().requires_grad_()
    out = norm(whole)
    out.square().mul(torch.arange(3).view(3, 1, 1)).sum().backward()
    torch.testing.assert_close(torch.cat([part["out"] for part in parts]), out)
    torch.testing.assert_close(torch.cat([part["grad"] for part in parts]), whole.grad, rtol=1e-4, atol=1e-5)
    for part in parts:
        for key, tensor in norm.state_dict().items():
            torch.testing.assert_close(part["state"][key], tensor)
    features = batch().flatten(1).requires_grad_()
    loss = koleo_loss(features)
    loss.backward()
    torch.testing.assert_close(sum(part["koleo"] for part in parts) / 2, loss)
    torch.testing.assert_close(torch.cat([part["slope"] for part in parts]), features.grad)


@pytest.mark.parametrize(("shuffle", "drop_last"), [(True, True), (False, False)])
def test_processes_share_every_step_out(monkeypatch, shuffle, drop_last):
    def seen(rank, size, bs):
        monkeypatch.setattr("slivit.data.sampling.rank_and_size", lambda: (rank, size))
        loader = SharedDL(list(range(22)), bs=bs, shuffle=shuffle, drop_last=drop_last)
        loader.rng.seed(5)
        batches = [b.tolist() for b in loader]
        assert len(batches) == len(loader)
        return batches

    alone, parts = seen(0, 1, 8), [seen(rank, 2, 4) for rank in range(2)]
    assert [first + second for first, second in zip(*parts, strict=True)] == alone
    assert len({item for step in alone for item in step}) == (16 if drop_last else 22)


def test_an_item_s_random_numbers_are_its_own():
    torch.manual_seed(0)
    first = torch.rand(1)
    with seeded("epoch/7"):
        inside = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(0)
    torch.testing.assert_close(torch.rand(1), first)
    with seeded("epoch/7"):
        assert (torch.rand(1), np.random.rand()) == inside  # noqa: NPY002


if __name__ == "__main__":  # one of two processes
    torch.set_num_threads(1)
    plain_views(setattr)
    globals()[sys.argv[1]](pickle.loads(Path(sys.argv[2]).read_bytes()))
