"""Parts of one volume in several folders are told from copies, and from stacks in folders of their own."""

import shutil
from functools import partial

import pydicom
import pytest
from enhanced_files import make_enhanced
from phantoms import OBLIQUE, ct_series, ct_volume, mr_echoes, mr_series
from pydicom.uid import generate_uid

from medrestore_monai.dicom import divided, divided_series, find_series


def parts(place):
    """The names of folders with parts."""
    folders = sorted(path for path in place.iterdir() if path.is_dir())
    found = divided_series((folder, info.uid) for folder in folders for info in find_series(folder))
    assert all(str(folder) in problem for (folder, _), problem in found.items())
    return "".join(sorted(folder.name for folder, _ in found))


def move(files, folder):
    folder.mkdir()
    for file in files:
        file.rename(folder / file.name)


@pytest.mark.parametrize("of_other", [slice(0, None, 2), slice(3, None), slice(5, None)])
def test_a_volume_of_which_slices_lie_elsewhere(tmp_path, of_other):
    files = mr_series(tmp_path / "a", slices=6, size=8)
    ct_series(tmp_path / "c", slices=6, size=8, series="c")
    assert parts(tmp_path) == ""
    move(files[of_other], tmp_path / "b")
    assert parts(tmp_path) == "ab"


def test_a_folder_for_each_slice(tmp_path):
    for number, file in enumerate(ct_series(tmp_path / "x", slices=3, size=8)):
        move([file], tmp_path / str(number))
    (tmp_path / "x").rmdir()
    assert parts(tmp_path) == "012"


def test_parts_that_overlap(tmp_path):
    ct_series(tmp_path / "a", slices=6, size=8, skip=[5])
    ct_series(tmp_path / "b", slices=6, size=8, skip=[0])
    assert parts(tmp_path) == "ab"


def test_slabs_that_lie_apart(tmp_path):
    """As of the discs of a spine: each is whole, and all of them in one folder would have holes."""
    for name, start in zip("abc", (0, 60, 120), strict=True):
        edit = partial(_renamed, name)
        ct_series(tmp_path / name, slices=4, size=8, distance=2.5, origin=(0, 0, start), edit=edit)
    assert parts(tmp_path) == ""
    ct_series(tmp_path / "d", slices=4, size=8, distance=2.5, origin=(0, 0, 70), edit=partial(_renamed, "d"))
    assert parts(tmp_path) == "bd"


def _renamed(name, ds, index):
    ds.SOPInstanceUID = generate_uid(entropy_srcs=[name, str(index)])


def test_a_copy_of_a_part_and_two_people_of_one_uid(tmp_path):
    files = ct_series(tmp_path / "a", slices=6, size=8)
    move(files[3:], tmp_path / "b")
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    assert parts(tmp_path) == "abc"
    for file in (tmp_path / "b").iterdir():
        ds = pydicom.dcmread(file)
        ds.PatientID = "another"
        ds.save_as(file)
    assert parts(tmp_path) == ""


def test_each_folder_is_read_once_or_twice_whatever_its_series(tmp_path, monkeypatch):
    for name in ("a", "b"):
        for series in "stuvw":
            ct_series(tmp_path / name / series, slices=2, size=8, series=series)
            for file in (tmp_path / name / series).iterdir():
                file.rename(tmp_path / name / f"{series}{file.name}")
            (tmp_path / name / series).rmdir()
    looked = []
    monkeypatch.setattr(divided, "find_series", lambda place, problems: looked.append(place) or find_series(place))
    assert parts(tmp_path) == ""
    assert sorted(place.name for place in looked) == ["a", "b"]


@pytest.mark.parametrize("skip", [[], [2]])
def test_copies_also_of_some_slices(tmp_path, skip):
    ct_series(tmp_path / "a", slices=4, size=8)
    ct_series(tmp_path / "b", slices=4, size=8, skip=skip)
    assert parts(tmp_path) == ""


def test_stacks_in_folders_of_their_own(tmp_path):
    mr_echoes(tmp_path / "a", slices=4)
    move(sorted((tmp_path / "a").glob("echo2*")), tmp_path / "b")
    assert parts(tmp_path) == ""
    next((tmp_path / "b").iterdir()).unlink()  # of another extent
    assert parts(tmp_path) == ""


def test_another_orientation_another_study_and_scouts(tmp_path):
    for name, start in zip("abcd", (0, 20, 40, 60), strict=True):

        def edit(ds, index, name=name):
            ds.SOPInstanceUID = generate_uid(entropy_srcs=[name, str(index)])
            if name == "c":
                ds.StudyInstanceUID = generate_uid(entropy_srcs=["another study"])
            if name == "d":
                ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

        orientation = OBLIQUE if name == "b" else (1, 0, 0, 0, 1, 0)
        ct_series(tmp_path / name, slices=2, size=8, origin=(0, 0, start), orientation=orientation, edit=edit)
    assert parts(tmp_path) == ""


def test_files_of_many_frames(tmp_path):
    files = ct_series(tmp_path / "x", volume=ct_volume(6, 8))
    for name, some in (("a", files[:3]), ("b", files[3:]), ("c", files)):
        (tmp_path / name).mkdir()
        make_enhanced(tmp_path / name / "1.dcm", some, SOPInstanceUID=f"1.2.{ord(name)}")
    for file in files:
        file.unlink()
    (tmp_path / "x").rmdir()
    assert parts(tmp_path) == "ab"
