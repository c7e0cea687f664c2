"""Tables as people open them: no text is computed by a spreadsheet, and none is changed for this package."""

import csv

import pandas as pd
import pytest

from slivit.data.manifest import read_manifest
from slivit.data.table import as_shown, read_shown, read_table
from slivit.errors import ManifestError, message
from slivit.files import WriteError
from slivit.targets.task import Task

RISKY = ['=HYPERLINK("http://elsewhere.org","open")', "+1+1", "-2+3", "@SUM(A1)", "'=1", "'@x"]
PLAIN = ["P01", "-5", "+1.5", "-2.5e-3", ".5", "a=b", "'quoted'", ""]


def test_no_cell_begins_as_a_formula_and_all_come_back(tmp_path):
    table = pd.DataFrame({"=patient": RISKY + PLAIN, "value": range(len(RISKY + PLAIN))})
    file = tmp_path / "table.csv"
    as_shown(table).to_csv(file, index=False)
    written = list(csv.reader(file.open()))
    assert written[0][0] == "'=patient"
    assert [row[0] for row in written[1:]] == [f"'{cell}" for cell in RISKY] + PLAIN
    assert read_table(file)["=patient"].tolist() == RISKY + PLAIN[:-1] + [""]
    assert read_shown(file)["=patient"].fillna("").tolist() == RISKY + PLAIN
    assert table["=patient"].tolist() == RISKY + PLAIN


def test_predictions_and_manifests_are_written_so(tmp_path, made_up_predictions):
    from slivit.data.manifest import Manifest
    from slivit.evaluate.measure import measure, write_results
    from slivit.evaluate.recipe import Testing as Options
    from slivit.evaluate.tables import read_predictions

    table, task = made_up_predictions("binary", n=30)
    table["patient"] = [f'=HYPERLINK("{p}")' for p in table["patient"]]
    write_results(tmp_path, table, task, measure(table, task, Options(draws=1)))
    scans = table.rename(columns={"target_drusen": "drusen"})[["path", "patient", "split", "drusen"]]
    Manifest.from_frame(scans, task, need_splits=(), check_files=False).to_csv(tmp_path / "split.csv")
    for name in ("predictions.csv", "split.csv"):
        cells = [cell for row in csv.reader((tmp_path / name).open()) for cell in row]
        assert not any(cell.startswith("=") for cell in cells)
    again, _ = read_predictions(tmp_path / "predictions.csv")
    assert again["patient"].tolist() == table["patient"].tolist()


@pytest.mark.parametrize("error", [WriteError, ValueError])
def test_an_error_of_a_callback_is_told_without_the_frame_of_fastai(error):
    from fastai.callback.core import Callback

    class Stops(Callback):
        def after_batch(self):
            raise error("the disk is full: no space")

    stops = Stops()
    stops.run = True
    with pytest.raises(error) as found:
        stops("after_batch")
    assert message(found.value) == "the disk is full: no space"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_the_unicode_text_of_spreadsheets(tmp_path, encoding):
    (tmp_path / "t.csv").write_bytes("\ufeffpath\tpatient\na.nii\tMüller\n".encode(encoding))
    assert read_table(tmp_path / "t.csv")["patient"].tolist() == ["Müller"]


@pytest.fixture
def book(tmp_path):
    """A spreadsheet with a tab of scans, one of notes and an empty one."""
    pytest.importorskip("openpyxl")
    with pd.ExcelWriter(tmp_path / "scans.xlsx") as file:
        pd.DataFrame({"path": ["a.nii", "b.nii"], "patient": [1, 2], "ef": [51.5, 60]}).to_excel(
            file, sheet_name="Scans 2020", index=False, startrow=2, startcol=1
        )
        pd.DataFrame({"note": ["mine"]}).to_excel(file, sheet_name="Notes", index=False)
        pd.DataFrame().to_excel(file, sheet_name="Empty")
    return tmp_path / "scans.xlsx"


def test_of_several_tabs_one_is_named(book):
    with pytest.raises(ManifestError, match=r'has 2 tabs, "Scans 2020", "Notes"; name one: .*scans.xlsx#Scans 2020'):
        read_table(book)
    with pytest.raises(ManifestError, match=r'no tab "Note" with cells.*Notes'):
        read_table(f"{book}#Note")
    table = read_table(f"{book}#Scans 2020")
    assert table.to_dict("list") == {"path": ["a.nii", "b.nii"], "patient": ["1", "2"], "ef": ["51.5", "60"]}
    assert table.index.tolist() == [4, 5]  # as the spreadsheet numbers them
    task = Task(kind="regression", targets=("ef",))
    manifest = read_manifest(f"{book}#Scans 2020", task, check_files=False)
    assert manifest.rows()[0]["path"] == str(book.parent / "a.nii")


def test_what_is_no_spreadsheet_is_told(tmp_path, book):
    damaged = tmp_path / "cut.xlsx"
    damaged.write_bytes(book.read_bytes()[:900])
    with pytest.raises(ManifestError, match="no spreadsheet that can be read"):
        read_table(damaged)
    with pytest.raises(ManifestError, match="there is no such file"):
        read_table(tmp_path / "other.xlsx#Notes")


@pytest.mark.parametrize("content", [b"", b"a\n1,2,3\n4\n5,6,7,8\n", b"\xff\xff\xff", b'"'])
def test_a_damaged_table_of_our_own_is_named(tmp_path, content):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(ManifestError, match=r"table\.csv: is damaged"):
        read_shown(tmp_path / "table.csv")


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        ("0,5 1,25 -3 1,5e3 NA", ["0.5", "1.25", "-3", "1.5e3", "NA"]),
        ("1,234 12,345", ["1,234", "12,345"]),  # thousands, perhaps
        ("0,123 1,234", ["0.123", "1.234"]),
        ("a,b 1,5", ["a,b", "1,5"]),
        ("1 2", ["1", "2"]),
    ],
)
def test_decimal_commas_between_semicolons_are_points(tmp_path, cells, read):
    (tmp_path / "t.csv").write_text("path;ml\n" + "".join(f"a;{cell}\n" for cell in cells.split()))
    assert read_table(tmp_path / "t.csv")["ml"].tolist() == read
    (tmp_path / "q.csv").write_text("path,ml\n" + "".join(f'a,"{cell}"\n' for cell in cells.split()))
    assert read_table(tmp_path / "q.csv")["ml"].tolist() == cells.split()
