"""Where results go, what is refused before any work, and that a result is written whole or not at all."""

import errno
import os
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from phantoms import ct_series, ct_volume
from PIL import Image

from medrestore_monai.data import LoadImageOrSeriesd, SaveLikeSourced, plan_outputs
from medrestore_monai.dicom import Derivation, read_series
from medrestore_monai.files import DataError, UsageError, claim

AFFINE = np.array([[-0.7, 0, 0, 90], [0, -0.7, 0, 80], [0, 0, 2.5, -40], [0, 0, 0, 1.0]])


def write_nifti(path, volume=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = ct_volume(2, 16) if volume is None else volume
    nib.save(nib.Nifti1Image(volume.astype(np.int16), AFFINE), path)
    return path


def tree(folder):
    """Everything below a folder, with the bytes of files."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    ("output", "expected"),
    [("out", "out/a.nii.gz"), ("b.nii.gz", "b.nii.gz"), ("new/b.nii", "new/b.nii"), ("1.2.3", "1.2.3/a.nii.gz")],
)
def test_one_file_goes_to_a_file_or_into_a_folder(tmp_path, output, expected):
    source = write_nifti(tmp_path / "in" / "a.nii.gz")
    assert [item["output"] for item in plan_outputs(source, tmp_path / output)] == [str(tmp_path / expected)]


@pytest.mark.parametrize("name", ["b.nrrd", "b.dcm", "b.zip"])
def test_no_folder_gets_the_name_of_another_kind_of_file(tmp_path, name):
    source = write_nifti(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(ValueError, match=f"the output {name} is of another kind than a.nii.gz"):
        plan_outputs(source, tmp_path / name)


def test_a_result_that_the_source_links_to_is_not_replaced(tmp_path):
    result = write_nifti(tmp_path / "out" / "a.nii.gz")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii.gz").symlink_to(result)
    for source, output in ((tmp_path / "in", tmp_path / "out"), (tmp_path / "in" / "a.nii.gz", result)):
        with pytest.raises(ValueError, match=r"holds the source's a\.nii\.gz|may not lie in one another"):
            plan_outputs(source, output, overwrite=True)


def test_no_result_lies_in_another(tmp_path):
    ct_series(tmp_path / "in", slices=2, size=16)
    write_nifti(tmp_path / "in" / "t1.nii.gz")
    with pytest.raises(ValueError, match=r"would lie in one another, at .*t1"):
        plan_outputs(tmp_path / "in", tmp_path / "out")


def test_a_jpeg_picture_becomes_jpeg_or_png(tmp_path):
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "a.jpg")
    for name in ("b.jpg", "b.JPEG", "b.png"):
        assert [item["output"] for item in plan_outputs(tmp_path / "a.jpg", tmp_path / name)] == [str(tmp_path / name)]
    with pytest.raises(ValueError, match="another kind"):
        plan_outputs(tmp_path / "a.jpg", tmp_path / "b.tif")


def test_a_color_picture_is_saved_as_its_source_and_jpeg_is_noted(tmp_path):
    pixels = np.random.default_rng(0).integers(100, 110, (16, 24, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.png"):
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    load, save = LoadImageOrSeriesd("image"), SaveLikeSourced(Derivation("denoise"))
    for item in plan_outputs(tmp_path / "in", tmp_path / "out"):
        loaded = load(item)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            save({**loaded, "pred": loaded["image"] + 20})
        notes = [(str(note.message)[:18], Path(note.filename).name) for note in caught]
        # the command line shows notes of this package, not those that seem to come from MONAI
        assert notes == [("JPEG loses detail:", "outputs.py")] * item["output"].endswith("jpg")
        with Image.open(item["output"]) as source, Image.open(item["image"]) as before:
            assert source.format == before.format
            difference = np.asarray(source).astype(int) - np.asarray(before)
        np.testing.assert_allclose(difference, 20, atol=4)


def test_a_series_becomes_the_folder(tmp_path):
    files = ct_series(tmp_path / "ct", slices=2, size=16)
    for source in (tmp_path / "ct", files[0]):
        (item,) = plan_outputs(source, tmp_path / "out")
        expected = {"image": str(source), "output": str(tmp_path / "out"), "series_uid": "", "stack": 1, "stacks": 1}
        assert item == expected


def test_many_images_keep_their_places(tmp_path):
    write_nifti(tmp_path / "in" / "p1" / "a.nii.gz")
    ct_series(tmp_path / "in" / "p2" / "1.2.5", slices=2, size=16)
    files = ct_series(tmp_path / "packed", slices=2, size=16)
    with zipfile.ZipFile(tmp_path / "in" / "p3.zip", "w") as archive:
        archive.write(files[0], "a.dcm")
    items = plan_outputs(tmp_path / "in", tmp_path / "out")
    places = [str(Path(item["output"]).relative_to(tmp_path / "out")) for item in items]
    assert places == ["p1/a.nii.gz", "p2/1.2.5", "p3"]


def test_a_folder_with_the_name_of_a_file_keeps_it(tmp_path):
    names = ["1.2.3.zip", "T1.nii", "scan.dcm"]
    for name in names:
        ct_series(tmp_path / "in" / name, slices=2, size=16)
    items = plan_outputs(tmp_path / "in", tmp_path / "out")
    assert [item["output"] for item in items] == [str(tmp_path / "out" / name) for name in names]
    for name in names:
        source = tmp_path / "in" / name
        for output in (tmp_path / "new" / name, tmp_path / "other"):
            assert [item["output"] for item in plan_outputs(source, output)] == [str(output)]
        with pytest.raises(ValueError, match=r"is a folder, but b\.nii names a file"):
            plan_outputs(source, tmp_path / "b.nii")


@pytest.mark.parametrize("name", ["scan.zip", "scan.dcm"])
def test_a_series_in_one_file_does_not_become_a_file(tmp_path, name):
    (file,) = ct_series(tmp_path / "ct", slices=1, size=16)
    if name.endswith("zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.write(file, "a.dcm")
    else:
        file.rename(tmp_path / name)
    with pytest.raises(ValueError, match=f"is a folder, but {name} names a file"):
        plan_outputs(tmp_path / name, tmp_path / "out" / name)


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("a.nii.gz", "b.png", "of another kind"),
        ("a.nii.gz", "b.npy", "of another kind"),
        ("ct", "b.nii.gz", "is a folder, but b.nii.gz names a file"),
        ("ct", "b.dcm", "is a folder, but b.dcm names a file"),
        ("ct", "ct/out", "may not lie in one another"),
        ("ct", "ct", "may not lie in one another"),
        ("ct/inner", "ct", "may not lie in one another"),
        ("a.nii.gz", "a.nii.gz", "may not lie in one another"),
        ("a.nii.gz", ".", "may not lie in one another"),
    ],
)
def test_outputs_that_cannot_be_are_refused(tmp_path, monkeypatch, source, output, message):
    monkeypatch.chdir(tmp_path)
    write_nifti(tmp_path / "a.nii.gz")
    ct_series(tmp_path / "ct" / "inner", slices=2, size=16)
    before = tree(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=message):
            plan_outputs(source, output, overwrite=overwrite)
    assert tree(tmp_path) == before


def test_the_result_of_a_file_may_not_land_among_the_sources(tmp_path):
    write_nifti(tmp_path / "in" / "in" / "a.nii")
    with pytest.raises(ValueError, match="may not lie in one another"):
        plan_outputs(tmp_path / "in", tmp_path, overwrite=True)


def test_two_results_of_one_name_are_refused(tmp_path):
    ct_series(tmp_path / "in" / "scan", slices=2, size=16)
    zipfile.ZipFile(tmp_path / "in" / "scan.zip", "w").close()
    with pytest.raises(ValueError, match="would both become"):
        plan_outputs(tmp_path / "in", tmp_path / "out")


def test_an_output_that_exists_is_kept_by_default(tmp_path):
    source, output = write_nifti(tmp_path / "a.nii"), write_nifti(tmp_path / "b.nii")
    with pytest.raises(FileExistsError, match="replace it with `overwrite`"):
        plan_outputs(source, output)
    assert plan_outputs(source, output, overwrite=True)[0]["output"] == str(output)


def test_one_series_of_several(tmp_path):
    study = tmp_path / "study"
    for series in "ab":
        ct_series(study / "mixed", slices=2, size=16, series=series)
    ct_series(study / "c", slices=2, size=16, series="c")
    write_nifti(study / "d.nii")
    with pytest.raises(
        ValueError, match=r"2 series in mixed, choose one by its `series_uid`: CT, \d files, .*; CT, \d "
    ):
        plan_outputs(study, tmp_path / "out")
    for series, place in (("a", "mixed"), ("c", "c")):
        uid = read_series(ct_series(tmp_path / f"alone_{series}", slices=2, size=16, series=series)[0]).uid
        (item,) = plan_outputs(study, tmp_path / "out", series_uid=uid)
        places = {"image": str(study / place), "output": str(tmp_path / "out" / place)}
        assert item == {**places, "series_uid": uid, "stack": 1, "stacks": 1}
    with pytest.raises(ValueError, match=r"holds no series 1\.2\.3, but: (CT, \d files, UID [\d.]+(; )?){3}"):
        plan_outputs(study, tmp_path / "out", series_uid="1.2.3")


def load_and_save(source, output, change=0.0, overwrite=False):
    """Write ``source`` with all values changed to ``output``, as a pipeline does."""
    image = LoadImageOrSeriesd("image")({"image": str(source)})["image"]
    save = SaveLikeSourced(Derivation("denoise"), overwrite=overwrite)
    save({"image": image, "pred": image + change, "output": str(output)})


def test_slabs_wait_in_the_workspace_for_the_last_one(tmp_path):
    ct_series(tmp_path / "ct", slices=4, size=16)
    image = LoadImageOrSeriesd("image")({"image": str(tmp_path / "ct")})["image"]
    save = SaveLikeSourced(Derivation("denoise"))
    for start in (0, 2):
        part = {"image": image, "pred": image[..., start : start + 2] + 1, "output": str(tmp_path / "out")}
        assert sorted(path.name for path in tmp_path.iterdir()) == [".out.medrestore"] * (start > 0) + ["ct"]
        save({**part, "start": start, "stop": start + 2, "slices": 4})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct", "out"]
    np.testing.assert_array_equal(read_series(tmp_path / "out").array, read_series(tmp_path / "ct").array + 1)


def test_a_series_is_written_as_a_derived_one(tmp_path):
    ct_series(tmp_path / "ct", slices=3, size=16)
    before = tree(tmp_path / "ct")
    load_and_save(tmp_path / "ct", tmp_path / "new" / "out", change=2)
    source, derived = read_series(tmp_path / "ct"), read_series(tmp_path / "new" / "out")
    np.testing.assert_array_equal(derived.array, source.array + 2)
    np.testing.assert_array_equal(derived.affine, source.affine)
    assert derived.uid != source.uid
    assert tree(tmp_path / "ct") == before


def test_a_file_keeps_kind_type_and_affine(tmp_path):
    source = write_nifti(tmp_path / "a.nii.gz")
    load_and_save(source, tmp_path / "new" / "b.nii.gz", change=2)
    written = nib.load(tmp_path / "new" / "b.nii.gz")
    assert written.get_data_dtype() == np.int16
    np.testing.assert_array_equal(written.affine, nib.load(source).affine)
    np.testing.assert_array_equal(written.get_fdata(), nib.load(source).get_fdata() + 2)


@pytest.fixture(params=["plain", "as pydicom says it"])
def full_disk(request, monkeypatch):
    """Nothing reaches the disk: every flush of a written file fails."""

    def fail(descriptor):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if request.param == "plain":
            raise full
        raise OSError("With tag (7FE0,0010) got exception: Traceback ...") from full

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_a_full_disk_leaves_nothing_behind_and_is_named(tmp_path, full_disk, kind):
    source = write_nifti(tmp_path / "a.nii")
    if kind == "dicom":
        ct_series(tmp_path / "ct", slices=2, size=16)
        source = tmp_path / "ct"
    before = tree(tmp_path)
    target = tmp_path / "x" / "y" / ("out" if kind == "dicom" else "b.nii")
    with pytest.raises(OSError, match="No space left on device") as caught:
        load_and_save(source, target)
    assert caught.value.filename == str(target)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_a_full_disk_keeps_the_old_result(tmp_path, monkeypatch, kind):
    source, target = write_nifti(tmp_path / "a.nii"), tmp_path / "b.nii"
    if kind == "dicom":
        ct_series(tmp_path / "ct", slices=2, size=16)
        source, target = tmp_path / "ct", tmp_path / "out"
    load_and_save(source, target)
    before = tree(tmp_path)

    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        load_and_save(source, target, change=5, overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["b.nii", "new/b.nii"])
def test_a_read_only_disk_is_named(tmp_path, monkeypatch, name):
    """The system's refusal is simulated: root, as which many a container runs, may write anywhere."""
    source = write_nifti(tmp_path / "a.nii")
    (tmp_path / "locked").mkdir()
    opened, made = Path.open, Path.mkdir

    def refuse(path, act, *arguments, **options):
        if "locked" in str(path.parent) and (act is made or arguments[:1] == ("wb",)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return act(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", lambda path, *a, **k: refuse(path, opened, *a, **k))
    monkeypatch.setattr(Path, "mkdir", lambda path, *a, **k: path.is_dir() or refuse(path, made, *a, **k))
    with pytest.raises(OSError, match=r"Read-only file system.*b\.nii"):
        load_and_save(source, tmp_path / "locked" / name)
    assert list((tmp_path / "locked").iterdir()) == []


def test_a_place_below_a_file_is_no_place(tmp_path):
    source = write_nifti(tmp_path / "a.nii")
    (tmp_path / "notes.txt").write_text("kept")
    before = tree(tmp_path)
    with pytest.raises(OSError, match=r"notes\.txt"):
        load_and_save(source, tmp_path / "notes.txt" / "b.nii")
    assert tree(tmp_path) == before


def test_a_full_disk_stops_a_long_series_at_its_first_slab(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    ct_series(tmp_path / "ct", slices=4, size=16)
    image = LoadImageOrSeriesd("image")({"image": str(tmp_path / "ct")})["image"]
    save, target = SaveLikeSourced(Derivation("denoise")), str(tmp_path / "new" / "out")
    with pytest.raises(OSError, match="No space left") as caught:
        save({"image": image, "pred": image[..., :2], "output": target, "start": 0, "stop": 2, "slices": 4})
    assert caught.value.filename == target
    save.close()
    assert [path.name for path in tmp_path.iterdir()] == ["ct"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
@pytest.mark.parametrize("kind", ["series", "zip", "nifti"])
def test_a_result_has_the_permissions_of_its_source(tmp_path, kind, mode):
    source, target = tmp_path / kind, tmp_path / "out"
    if kind == "nifti":
        source, target = write_nifti(tmp_path / "a.nii"), tmp_path / "b.nii"
        source.chmod(mode)
    files = [] if kind == "nifti" else ct_series(tmp_path / "series", slices=2, size=16)
    for file in files:
        file.chmod(mode)
    (tmp_path / "series").mkdir(exist_ok=True)
    (tmp_path / "series").chmod(0o750)
    if kind == "zip":
        source = tmp_path / "a.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for file in files:
                archive.write(file, file.name)
        source.chmod(mode)
    load_and_save(source, target)
    written = [target] if kind == "nifti" else list(target.iterdir())
    assert {file.stat().st_mode & 0o777 for file in written} == {mode}
    if kind != "nifti":
        expected = {0o600: 0o700, 0o640: 0o750, 0o444: 0o755}[mode] if kind == "zip" else 0o750
        assert target.stat().st_mode & 0o777 == expected


@pytest.mark.parametrize("kind", ["series", "zip", "nifti"])
def test_a_source_that_changes_during_the_run_is_noticed(tmp_path, kind):
    source, target = write_nifti(tmp_path / "a.nii"), tmp_path / "b.nii"
    if kind != "nifti":
        file = ct_series(tmp_path / "series", slices=2, size=16)[0]
        source, target = tmp_path / "series", tmp_path / "out"
    if kind == "zip":
        source = tmp_path / "a.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for one in (tmp_path / "series").iterdir():
                archive.write(one, one.name)
    image = LoadImageOrSeriesd("image")({"image": str(source)})["image"]
    os.utime(file if kind == "series" else source, (1, 1))
    before = tree(tmp_path)
    with pytest.raises(DataError, match="changed while it was restored, so nothing was written"):
        SaveLikeSourced(Derivation("denoise"))({"image": image, "pred": image, "output": str(target)})
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("kind", "foreign", "message"),
    [
        ("series", "a file", "a folder, but out names a file"),
        ("series", "a folder", "holds other things"),
        ("nifti", "a link", r"holds the source's a\.nii, by a link"),
    ],
)
def test_what_is_no_result_is_not_replaced_and_that_shows_before_the_work(tmp_path, kind, foreign, message):
    source, target = write_nifti(tmp_path / "a.nii"), tmp_path / "b.nii"
    if kind == "series":
        ct_series(tmp_path / "series", slices=2, size=16)
        source, target = tmp_path / "series", tmp_path / "out"
    if foreign == "a link":
        target.hardlink_to(source)
    elif foreign == "a file":
        target.write_text("notes")
    else:
        target.mkdir()
        (target / "notes.txt").write_text("notes")
    with pytest.raises((FileExistsError, ValueError), match=message):
        plan_outputs(source, target, overwrite=True)


def test_a_second_run_on_one_output_is_refused_before_the_work(tmp_path):
    source = write_nifti(tmp_path / "a.nii")
    with ThreadPoolExecutor(1) as other, claim(tmp_path / "b.nii"):
        refused = other.submit(plan_outputs, source, tmp_path / "b.nii").exception()
    assert isinstance(refused, UsageError)
    assert "another run writes" in str(refused)
