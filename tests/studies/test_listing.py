"""Every series and image of a source is listed once, and what cannot be read hides nothing else."""

import os
import zipfile

import nibabel as nib
import numpy as np
import pydicom
import pytest
from phantoms import ct_series, pet_series

from medrestore_monai.dicom import read_series
from medrestore_monai.studies import are_many
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_bad_file_among_several_series_is_reported_and_they_are_listed(tmp_path):
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


@pytest.mark.slow
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


def by_name(source, modalities=("CT",)):
    return {study.name: study for study in list_studies(source, modalities)}


def test_links_to_folders_are_followed(tmp_path):
    ct_series(tmp_path / "in" / "p0", slices=2, size=8, series="0")
    for number in (1, 2):
        ct_series(tmp_path / "store" / str(number), slices=2, size=8, series=str(number))
        (tmp_path / "in" / f"p{number}").symlink_to(tmp_path / "store" / str(number))
    np.save(tmp_path / "store" / "c.npy", np.zeros((3, 3)))
    (tmp_path / "in" / "more").symlink_to("../store")
    assert names(tmp_path / "in") == ["more/1", "more/2", "more/c.npy", "p0"]
    (tmp_path / "in" / "more").unlink()
    assert names(tmp_path / "in") == ["p0", "p1", "p2"]


def test_links_make_no_study_twice_and_no_endless_loop(tmp_path):
    for patient in "pq":
        ct_series(tmp_path / "in" / patient, slices=2, size=8, series=patient)
        (tmp_path / "in" / patient / "up").symlink_to("..")
    np.save(tmp_path / "in" / "q" / "c.npy", np.zeros((3, 3)))
    (tmp_path / "in" / "a").symlink_to("p")
    (tmp_path / "in" / "q" / "earlier").symlink_to("../p")
    (tmp_path / "in" / "self").symlink_to("self")
    studies = list_studies(tmp_path / "in")
    assert [study.name.split("-")[0] for study in studies] == ["p", "q/CT", "q/c.npy", "self"]
    assert "symbolic links" in studies[3].problem
    with alone(studies[1]) as path:
        assert read_series(path).uid == studies[1].series_uid


def test_images_among_dicom_files_are_studies_of_their_own(tmp_path):
    stray, *_ = ct_series(tmp_path / "in" / "p1", slices=3, size=8, series="1")
    (tmp_path / "in" / "stray.dcm").write_bytes(stray.read_bytes())
    ct_series(tmp_path / "in" / "p2", slices=2, size=8, series="2")
    packed = ct_series(tmp_path / "packed", slices=2, size=8, series="z")
    (tmp_path / "in" / "p3").mkdir()
    np.save(tmp_path / "in" / "p3" / "t1.npy", np.zeros((3, 3)))
    np.save(tmp_path / "in" / "p4.npy", np.zeros((3, 3)))
    with zipfile.ZipFile(tmp_path / "in" / "p3" / "z.zip", "w") as archive:
        for file in packed:
            archive.write(file, file.name)
    studies = by_name(tmp_path / "in")
    assert [name.split("-")[0] for name in studies] == ["CT", "CT", "p3/t1.npy", "p3/z", "p4.npy"]
    assert not any(study.problem or study.unfit for study in studies.values())
    spoiled = next(study for study in studies.values() if study.files == 4)
    with alone(spoiled) as path, pytest.warns(UserWarning, match=r"\.dcm passed over: a copy of another slice"):
        assert read_series(path).shape[2] == 3


def test_parts_of_a_series_in_several_folders_are_not_restored(tmp_path):
    files = ct_series(tmp_path / "in" / "p" / "A", slices=6, size=8, series="a")
    (tmp_path / "in" / "p" / "B").mkdir()
    for file in files[::2]:
        file.rename(tmp_path / "in" / "p" / "B" / file.name)
    ct_series(tmp_path / "in" / "p" / "C", slices=3, size=8, series="c")
    problems = {study.name: study.problem for study in list_studies(tmp_path / "in")}
    folders = f"{tmp_path / 'in' / 'p' / 'A'} and {tmp_path / 'in' / 'p' / 'B'}"
    sentence = f"parts of one series lie in {folders}: put them into one folder."
    assert problems == {"p/A": sentence, "p/B": sentence, "p/C": ""}
    for file in (tmp_path / "in" / "p" / "B").iterdir():
        file.rename(tmp_path / "in" / "p" / "A" / file.name)
    assert {study.name: study.problem for study in list_studies(tmp_path / "in")} == {"p/A": "", "p/C": ""}


def test_copies_of_a_series_are_restored_each(tmp_path):
    ct_series(tmp_path / "in" / "first", slices=4, size=8)
    ct_series(tmp_path / "in" / "second", slices=4, size=8)
    ct_series(tmp_path / "in" / "some", slices=4, size=8, skip=[3])
    assert [(study.name, study.problem) for study in list_studies(tmp_path / "in")] == [
        (name, "") for name in ("first", "second", "some")
    ]


def test_files_of_one_name_are_reported_with_their_folders(tmp_path):
    first, *_ = ct_series(tmp_path / "in" / "p1", slices=3, size=8)
    (tmp_path / "in" / first.name).write_bytes(first.read_bytes())
    np.save(tmp_path / "in" / "c.npy", np.zeros((3, 3)))
    series = next(study for study in list_studies(tmp_path / "in") if study.series_uid)
    with alone(series) as path, pytest.warns(UserWarning, match=f"p1_{first.name} passed over: a copy"):
        read_series(path)


def test_the_result_of_a_series_is_no_folder_that_others_lie_in(tmp_path):
    ct_series(tmp_path / "in" / "p", slices=2, size=8)
    assert names(tmp_path / "in") == ["p"]
    np.save(tmp_path / "in" / "p" / "c.npy", np.zeros((3, 3)))
    series, image = list_studies(tmp_path / "in")
    assert (series.name.split("-")[0], image.name) == ("p/CT", "p/c.npy")
    with alone(series) as path:
        assert {file.suffix for file in path.iterdir()} == {".dcm"}


def test_previews_among_dicom_files_are_passed_over_by_name(tmp_path):
    ct_series(tmp_path / "in" / "p", slices=2, size=8)
    (tmp_path / "in" / "p" / "previews").mkdir()
    for name in ("thumb.jpg", "previews/1.PNG", "DICOMDIR", "README", "scan.pdf"):
        (tmp_path / "in" / "p" / name).write_bytes(b"not looked at")
    with zipfile.ZipFile(tmp_path / "in" / "p" / "viewer.zip", "w") as archive:
        archive.writestr("viewer.exe", "a program")
    studies = by_name(tmp_path / "in")
    assert {name: study.unfit for name, study in studies.items()} == {
        "p": "",
        "p/previews/1.PNG": "a picture beside DICOM files, where CT is restored",
        "p/thumb.jpg": "a picture beside DICOM files, where CT is restored",
        "p/viewer": "an archive without a DICOM image",
    }
    assert studies["p"].shared
    assert not are_many(list(studies.values()), tmp_path / "out")
    assert by_name(tmp_path / "in", ())["p/thumb.jpg"].unfit == ""  # a bundle for pictures


def test_files_in_the_place_of_dicom_are_reported(tmp_path):
    np.save(tmp_path / "c.npy", np.zeros((3, 3)))
    for name, content in (("a/1.dcm", b""), ("a/2.dcm", b""), ("b/IM1", b"\x08\0\x05\0CS\x0a\0ISO_IR 100")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "gone").symlink_to(tmp_path / "not mounted")
    problems = {study.name.split("-")[0]: study.problem for study in list_studies(tmp_path)}
    assert (
        problems["a/unreadable"]
        == "1.dcm is not a DICOM file: export it again, or rename it if it is an image of another kind."
    )
    assert problems["b"].startswith("IM1 has no SOPClassUID")
    assert problems["gone"] == "No such file or directory."
    assert problems["c.npy"] == ""
    assert len(problems) == 4


def test_a_modality_is_no_path(tmp_path):
    for series in "ab":
        edit = {"edit": lambda ds, index: setattr(ds, "Modality", "../../X")}
        ct_series(tmp_path / "in", slices=2, size=8, series=series, **edit)
    found = names(tmp_path / "in")
    assert len(found) == 2
    assert all("/" not in name and ".." not in name for name in found)


def test_when_a_study_was_written(tmp_path):
    files = ct_series(tmp_path / "in" / "a", slices=3, size=8)
    with zipfile.ZipFile(tmp_path / "in" / "b.zip", "w") as archive:
        archive.write(files[0], "a.dcm")
    np.save(tmp_path / "in" / "c.npy", np.zeros((3, 3)))
    for number, path in enumerate([*files, tmp_path / "in" / "b.zip", tmp_path / "in" / "c.npy"]):
        os.utime(path, ns=(0, 10**18 + number))
    assert [study.modified - 10**18 for study in list_studies(tmp_path / "in")] == [2, 3, 4]


def test_no_file_that_looks_like_an_image_vanishes(tmp_path):
    root = tmp_path / "in"
    ct_series(root / "p1", slices=2, size=8)
    ct_series(root / "p1" / "shots", slices=1, size=8, series="c", edit=_capture)
    nib.Nifti1Pair(np.zeros((4, 5, 3), np.int16), np.eye(4)).to_filename(root / "p2.hdr")
    for name in ("g8.bmp", "slide.svs", "half.img", "old.tar", "p1/scan.mhd", "notes.txt", "run.log"):
        (root / name).write_bytes(b"not looked at")
    studies = {name.split("-")[0]: study for name, study in by_name(root).items()}
    assert {name: study.unfit for name, study in studies.items() if study.unfit} == {
        "g8.bmp": "not of a kind that is read: save it as PNG or TIFF",
        "slide.svs": "not of a kind that is read: export the picture as TIFF, such as with bfconvert",
        "half.img": "not of a kind that is read: put its .hdr beside it",
        "old.tar": "not of a kind that is read: unpack it",
        "p1/scan.mhd": "not of a kind that is read: save it with its data in one .mha file",
        "p1/shots/c05.dcm": "it is Secondary Capture Image Storage (modality OT), where CT, MR, PET or X-ray (CR, DX) "
        "images are expected",
    }
    assert {"p2.nii"} == {name for name, study in studies.items() if not study.unfit and not study.series_uid}
    assert not any(study.problem for study in studies.values())


def _capture(ds, index):
    ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.7", "OT"
