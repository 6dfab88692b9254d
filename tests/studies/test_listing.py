"""Every series and image of a source is listed once, and what cannot be read hides nothing else."""

import os
import zipfile

import numpy as np
import pydicom
import pytest
from phantoms import ct_series, pet_series

from medrestore_monai.dicom import read_series
from medrestore_monai.studies.listing import alone, list_studies


def names(source, **options):
    return [study.name for study in list_studies(source, **options)]


def damage(file):
    file.write_bytes(file.read_bytes()[:300])


def test_a_tree_of_patients_files_and_archives(tmp_path):
    for patient in "ab":
        ct_series(tmp_path / "in" / patient / "study" / "series", slices=2, size=8, series=patient)
    np.save(tmp_path / "in" / "c.npy", np.zeros((3, 3)))
    (tmp_path / "in" / "notes.txt").write_text("text")
    (tmp_path / "in" / ".hidden").mkdir()
    np.save(tmp_path / "in" / ".hidden" / "d.npy", np.zeros((3, 3)))
    files = ct_series(tmp_path / "packed", slices=2, size=8, series="e")
    with zipfile.ZipFile(tmp_path / "in" / "e.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    assert names(tmp_path / "in") == ["a/study/series", "b/study/series", "c.npy", "e"]
    assert [study.files for study in list_studies(tmp_path / "in")] == [2, 2, 1, 2]


def test_the_index_of_a_disk_does_not_make_it_one_study(tmp_path):
    ct_series(tmp_path / "in" / "a", slices=2, size=8, series="a")
    ct_series(tmp_path / "in" / "b", slices=2, size=8, series="b")
    (tmp_path / "in" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert names(tmp_path / "in") == ["a", "b"]


@pytest.mark.parametrize("packed", [False, True])
def test_series_in_one_place_get_names_that_stay_and_can_be_had_alone(tmp_path, packed):
    place = tmp_path / "in"
    for series in "ab":
        ct_series(place, slices=3, size=8, series=series)
    if packed:
        with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
            for number, file in enumerate(sorted(place.iterdir())):
                archive.write(file, f"{number}/image.dcm")  # names repeat within an archive
        place = tmp_path / "in.zip"
    first = list_studies(place)
    assert len({study.name for study in first}) == 2
    assert all(study.name.startswith("CT-") and study.shared for study in first)
    ct_series(tmp_path / "more", slices=2, size=8, series="c")
    for study in first:
        with alone(study) as path:
            series = read_series(path)
            assert (series.uid, series.shape) == (study.series_uid, (8, 8, 3))
        assert not path.exists()


def test_a_bad_file_among_several_series_is_told_and_they_are_listed(tmp_path):
    for series in "ab":
        ct_series(tmp_path / "in", slices=3, size=8, series=series)
    damage(ct_series(tmp_path / "in", slices=1, size=8, series="x")[0])
    studies = list_studies(tmp_path / "in")
    assert [bool(study.problem) for study in studies] == [False, False, True]
    assert "x05.dcm" in studies[-1].problem
    for study in studies[:2]:
        with alone(study) as path:  # as if the bad file was not there
            assert read_series(path).shape == (8, 8, 3)


def test_a_bad_file_beside_one_series_may_be_its_slice(tmp_path):
    damage(ct_series(tmp_path / "in" / "a", slices=3, size=8)[2])
    ct_series(tmp_path / "in" / "b", slices=3, size=8, series="b")
    studies = list_studies(tmp_path / "in")
    assert [(study.name, bool(study.problem)) for study in studies] == [("a", True), ("b", False)]


def test_what_need_not_be_restored_is_unfit(tmp_path):
    ct_series(tmp_path / "in" / "ct", slices=2, size=8)
    scout = {"edit": lambda ds, index: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"])}
    ct_series(tmp_path / "in" / "scout", slices=1, size=8, series="b", **scout)
    pet_series(tmp_path / "in" / "pet", slices=2, size=8, series="c")
    unfit = {study.name: study.unfit for study in list_studies(tmp_path / "in", ["CT"])}
    assert unfit == {"ct": "", "pet": "modality PT, where CT is restored", "scout": "a localizer (scout) image"}
    assert [study.unfit for study in list_studies(tmp_path / "in") if study.name == "pet"] == [""]


def test_two_results_of_one_name(tmp_path):
    ct_series(tmp_path / "in" / "scan", slices=2, size=8)
    with zipfile.ZipFile(tmp_path / "in" / "scan.zip", "w") as archive:
        archive.write(ct_series(tmp_path / "packed", slices=1, size=8, series="b")[0], "a.dcm")
    first, second = list_studies(tmp_path / "in")
    assert (first.name, first.problem) == ("scan", "")
    assert "would also be scan" in second.problem


def test_what_is_not_there_or_may_not_be_read(tmp_path):
    with pytest.raises(ValueError, match="there is no file or folder"):
        list_studies(tmp_path / "nothing")
    (tmp_path / "in").mkdir()
    os.symlink(tmp_path / "gone", tmp_path / "in" / "a.nii")
    (tmp_path / "in" / "b.zip").write_bytes(b"PK and nothing else")
    problems = [study.problem for study in list_studies(tmp_path / "in")]
    assert problems[0] == "No such file or directory."
    assert "cannot be unpacked" in problems[1]


def test_every_file_of_a_long_list_is_there_once(tmp_path):
    """Against a plain look at the headers."""
    for number in range(12):
        place = tmp_path / "in" / f"p{number % 4}" / ("x" if number % 3 else "y/z")
        ct_series(place, slices=1 + number % 3, size=8, series=f"s{number}")
    uids = {pydicom.dcmread(file).SeriesInstanceUID for file in (tmp_path / "in").rglob("*.dcm")}
    studies = list_studies(tmp_path / "in")
    assert sorted(study.series_uid for study in studies) == sorted(uids)
    assert sum(study.files for study in studies) == len(list((tmp_path / "in").rglob("*.dcm")))
    assert sum(study.size for study in studies) == sum(f.stat().st_size for f in (tmp_path / "in").rglob("*.dcm"))
