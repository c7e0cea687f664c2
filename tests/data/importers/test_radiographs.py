"""NIH ChestX-ray14, CheXpert, PadChest and VinDr-CXR."""

from __future__ import annotations

import gzip

import pytest

from slivit.data.importers import make_manifest
from slivit.data.manifest import read_manifest
from slivit.errors import ManifestError


def nih(tree):
    names = [f"{i:08d}_000.png" for i in range(1, 13)]
    root = tree(*[f"images_{1 + i % 2:03d}/images/{n}" for i, n in enumerate(names)])
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
    )
    labels = ["Cardiomegaly|Effusion", "No Finding", "Hernia", "Pleural_Thickening"] * 3
    rows = [f"{n},{label},0,{i},058Y,M,PA,2682,2749,0.143,0.143,\n" for i, (n, label) in enumerate(zip(names, labels, strict=True))]  # fmt: skip  # noqa: E501
    (root / "Data_Entry_2017.csv").write_text(header + "".join(rows))
    (root / "train_val_list.txt").write_text("\n".join(names[:8]))
    (root / "test_list.txt").write_text("\n".join(names[8:]))
    return root


def test_nih(tree, tmp_path):
    made = make_manifest("nih", nih(tree), tmp_path / "nih.csv", val=0.25)
    assert made.frame["split"].value_counts().to_dict() == {"train": 6, "test": 4, "val": 2}
    first = made.frame.iloc[0]
    assert (first["Cardiomegaly"], first["Effusion"], first["Hernia"]) == (1, 1, 0)
    assert first["age"] == 58
    assert len(made.task.targets) == 14
    assert len(read_manifest(tmp_path / "nih.csv", made.task)) == 12


def test_nih_without_lists(tree):
    root = nih(tree)
    (root / "test_list.txt").unlink()
    with pytest.raises(ManifestError, match=r'"test_list\.txt" is missing'):
        make_manifest("nih", root)
    assert "split" not in make_manifest("nih", root, split=False).frame


CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices\n"
)


def chexpert(tree, test=False):
    names = [
        *(f"train/patient0000{i}/study1/view1_frontal.jpg" for i in range(1, 7)),
        "train/patient00001/study1/view2_lateral.jpg",
        *(f"{s}/patient6454{i}/study1/view1_frontal.jpg" for s in ["valid"] + ["test"] * test for i in range(2)),
    ]
    root = tree(*names)
    for split in ["train", "valid"] + ["test"] * test:
        rows = []
        for i, name in enumerate(n for n in names if n.startswith(split)):
            view = "Lateral" if "lateral" in name else "Frontal"
            labels = ["", "", "-1.0" if split == "train" else "0.0", f"{i % 2}.0", *[""] * 10]
            rows.append(f"CheXpert-v1.0-small/{name},Male,60,{view},AP,{','.join(labels)}\n")
        (root / f"{split}.csv").write_text(CHEXPERT + "".join(rows))
    return root


def test_chexpert_policies(tree, tmp_path):
    root = chexpert(tree)
    made = make_manifest("chexpert", root, tmp_path / "chexpert.csv", labels="Cardiomegaly,Lung Opacity,Edema")
    assert made.task.targets == ("Cardiomegaly", "Lung Opacity", "Edema")
    assert made.frame["split"].value_counts().to_dict() == {"train": 5, "test": 2, "val": 1}
    train = made.frame["path"].str.contains("/train/")
    assert made.frame.loc[train, "Cardiomegaly"].isna().all()
    assert (made.frame["Edema"] == 0).all()
    assert made.frame["patient"].tolist()[0] == "patient00001"
    assert "1 lateral views: left out" in made.notes
    manifest = read_manifest(tmp_path / "chexpert.csv", made.task)
    assert manifest.frame["Cardiomegaly"].isna().sum() == 6
    ones = make_manifest("chexpert", root, uncertain="ones", unmentioned="missing", frontal_only="false")
    assert (ones.frame.loc[ones.frame["path"].str.contains("/train/"), "Cardiomegaly"] == 1).all()
    assert ones.frame["Edema"].isna().all()
    assert len(ones.frame) == 9
    zeros = make_manifest("chexpert", root, uncertain="zeros")
    assert (zeros.frame["Cardiomegaly"] == 0).all()


def test_chexpert_with_its_test_set(tree):
    made = make_manifest("chexpert", chexpert(tree, test=True), shared="keep")
    assert made.frame["split"].value_counts().to_dict() == {"train": 6, "val": 2, "test": 2}


def test_chexpert_options_are_checked(tree):
    root = chexpert(tree)
    with pytest.raises(ManifestError, match=r'label "Edemas" is unknown\. Did you mean "Edema"\?'):
        make_manifest("chexpert", root, labels=("Edemas",))
    with pytest.raises(ManifestError, match=r"option uncertain is 'maybe'.*'missing', 'zeros' or 'ones'"):
        make_manifest("chexpert", root, uncertain="maybe")
    with pytest.raises(ManifestError, match=r'no option "frontal"\. Did you mean "frontal_only"\?'):
        make_manifest("chexpert", root, frontal=True)
    with pytest.raises(ManifestError, match=r'there is no importer "chexprt"\. Did you mean "chexpert"\?'):
        make_manifest("chexprt", root)


@pytest.mark.parametrize("zipped", [False, True])
def test_padchest(tree, zipped):
    root = tree(*[f"{i}/image{i}.png" for i in range(5)])
    header = "ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,MethodLabel,"
    header += "Labels\n"
    rows = [
        "image0.png,0,20140915,S0,P0,1930,F,PA,Physician,\"['normal']\"\n",
        "image1.png,1,20140915,S1,P1,1940,M,AP,RNN_model,\"['pleural effusion', ' cardiomegaly', '']\"\n",
        "image2.png,2,20140915,S1,P1,1940,M,L,RNN_model,\"['pleural effusion']\"\n",
        "image3.png,3,20140915,S3,P3,1950,M,PA,Physician,\"['pleural effusion']\"\n",
        "image4.png,4,20140915,S4,P4,1950,M,PA,Physician,\n",
    ]
    text = header + "".join(rows)
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    if zipped:
        (root / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (root / name).write_text(text)
    made = make_manifest("padchest", root)
    assert made.task.targets == ("pleural effusion", "cardiomegaly", "normal")
    assert made.frame["pleural effusion"].tolist() == [0, 1, 1]
    assert made.frame["cardiomegaly"].tolist() == [0, 1, 0]
    assert made.frame["age"].tolist() == [84, 74, 64]
    assert "split" not in made.frame
    assert "2 of 5 images" in made.notes[0]
    physician = make_manifest("padchest", root, physician_only=True, labels="normal", views="PA")
    assert physician.frame["normal"].tolist() == [1, 0]
    with pytest.raises(ManifestError, match=r'no image has the label "cardiomegally"\. Did you mean "cardiomegaly"\?'):
        make_manifest("padchest", root, labels="cardiomegally")


def vindr(tree):
    root = tree(*[f"train/t{i}.dicom" for i in range(8)], "test/e0.dicom", "test/e1.dicom")
    (root / "annotations").mkdir()
    rows = []
    for i in range(8):
        votes = [(1, 1, 0), (1, 0, 0)][i % 2]
        rows += [f"t{i},R{r},{vote},0,{1 - vote}\n" for r, vote in enumerate(votes)]
    (root / "annotations" / "image_labels_train.csv").write_text(
        "image_id,rad_id,Cardiomegaly,Other diseases,No finding\n" + "".join(rows)
    )
    (root / "annotations" / "image_labels_test.csv").write_text(
        "image_id,Cardiomegaly,Other disease,No finding\ne0,1,1,0\ne1,0,0,1\n"
    )
    return root


def test_vindr(tree):
    root = vindr(tree)
    made = make_manifest("vindr", root, val=0.25)
    assert made.task.targets == ("Cardiomegaly", "Other diseases", "No finding")
    assert made.frame["split"].value_counts().to_dict() == {"train": 6, "val": 2, "test": 2}
    assert made.frame["Cardiomegaly"].tolist() == [1, 0] * 4 + [1, 0]
    assert (make_manifest("vindr", root, votes="any").frame["Cardiomegaly"][:8] == 1).all()
    assert (make_manifest("vindr", root, votes="all").frame["Cardiomegaly"][:8] == 0).all()
    with pytest.raises(ManifestError, match=r'Did you mean "No finding"\?'):
        make_manifest("vindr", root, labels="No findings")
