"""Images below a folder: links are followed, and DICOM files hide no images."""

import re
import zipfile

import numpy as np
import pytest
from phantoms import ct_series

from medrestore_monai.data import find_images, ixi, paired_folders
from medrestore_monai.notes import Notes


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.zeros((3, 3)))


def test_links_to_folders_are_followed_and_none_is_entered_twice(tmp_path):
    save(tmp_path / "in" / "p0" / "a.npy")
    save(tmp_path / "store" / "b.npy")
    (tmp_path / "in" / "p1").symlink_to(tmp_path / "store")
    (tmp_path / "in" / "a").symlink_to("p0")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "in")
    assert [(item["name"], item["patient"]) for item in find_images(tmp_path / "in")] == [
        ("p0/a.npy", "p0"),
        ("p1/b.npy", "p1"),
    ]


def test_images_among_dicom_files_are_listed(tmp_path):
    files = ct_series(tmp_path / "in" / "p", slices=2, size=8)
    save(tmp_path / "in" / "p" / "a.npy")
    save(tmp_path / "in" / "p" / "sub" / "b.npy")
    for name, content in (("scan.zip", files[0].read_bytes()), ("viewer.zip", b"a program")):
        with zipfile.ZipFile(tmp_path / "in" / "p" / name, "w") as archive:
            archive.writestr("a", content)
    assert [item["name"] for item in find_images(tmp_path / "in")] == ["p", "p/a.npy", "p/scan.zip", "p/sub/b.npy"]


def test_previews_among_dicom_files_are_passed_over_with_a_word(tmp_path):
    ct_series(tmp_path, slices=2, size=8)
    for name in ("a.jpg", "b.png"):
        (tmp_path / name).write_bytes(b"a picture")
    with pytest.warns(UserWarning, match=r"a\.jpg and 1 more passed over"):
        (item,) = find_images(tmp_path)
    assert item["slices"] == 2


def test_a_folder_of_files_that_only_begin_as_dicom_is_reported(tmp_path):
    save(tmp_path / "a.npy")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "IM1").write_bytes(b"\x08\0\x05\0CS\x0a\0ISO_IR 100")
    problems = []
    assert [item["name"] for item in find_images(tmp_path, problems)] == ["a.npy"]
    assert "IM1 has no SOPClassUID" in problems[0]


def test_parts_of_a_series_in_several_folders_are_refused(tmp_path):
    files = ct_series(tmp_path / "p" / "A", slices=6, size=8)
    (tmp_path / "p" / "B").mkdir()
    for file in files[3:]:
        file.rename(tmp_path / "p" / "B" / file.name)
    save(tmp_path / "q.npy")
    sentence = (
        f"parts of one series lie in {tmp_path / 'p' / 'A'} and {tmp_path / 'p' / 'B'}: put them into one folder."
    )
    with pytest.raises(ValueError, match=re.escape(sentence)):
        find_images(tmp_path)
    problems = []
    assert [item["name"] for item in find_images(tmp_path, problems)] == ["q.npy"]
    assert problems == [sentence]


def test_copies_of_a_series_are_listed_each(tmp_path):
    for name in ("first", "second"):
        ct_series(tmp_path / name, slices=4, size=8)
    assert [item["name"] for item in find_images(tmp_path)] == ["first", "second"]


def test_pairs_and_volumes_below_links(tmp_path):
    for side in ("LQ", "HQ"):
        save(tmp_path / "store" / side / "a.npy")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "p0").symlink_to(tmp_path / "store")
    assert [item["name"] for item in paired_folders(tmp_path / "in")] == ["p0/a.npy"]
    (tmp_path / "store" / "IXI002-Guys-0828-T2.nii.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"IXI002-Guys-0828-T2\.nii\.gz"):
        ixi(tmp_path / "in", "all")


def test_what_looks_like_an_image_is_named_if_it_is_passed_over(tmp_path):
    save(tmp_path / "a.npy")
    for name in ("b.bmp", "c.bmp", "d.nhdr", "e.hdr", "f.txt"):
        (tmp_path / name).write_bytes(b"not looked at")
    with Notes() as notes:
        assert [item["name"] for item in find_images(tmp_path)] == ["a.npy"]
    texts = " ".join(notes.messages)
    assert f"{tmp_path / 'b.bmp'} and 1 more passed over, not of a kind that is read: save it as PNG or TIFF." in texts
    assert "save it with its data in one .nrrd file" in texts
    assert "put its .img beside it" in texts
    assert "f.txt" not in texts
    (tmp_path / "a.npy").unlink()
    with pytest.raises(ValueError, match=r"holds no image.*\(b\.bmp: .*save it as PNG or TIFF\)"):
        find_images(tmp_path)


def test_what_needs_a_package_that_is_not_there_is_passed_over(tmp_path, monkeypatch):
    save(tmp_path / "a.npy")
    (tmp_path / "b.mha").write_bytes(b"not looked at")
    monkeypatch.setattr("medrestore_monai.data.find.find_spec", lambda name: name)
    assert [item["name"] for item in find_images(tmp_path)] == ["a.npy", "b.mha"]
    monkeypatch.setattr("medrestore_monai.data.find.find_spec", lambda name: None)
    with Notes() as notes:
        assert [item["name"] for item in find_images(tmp_path)] == ["a.npy"]
    assert "b.mha passed over, it needs SimpleITK: pip install 'medrestore-monai[itk]'." in notes.messages[0]
