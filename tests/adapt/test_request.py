"""A run that was killed goes on with the same images only."""

import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from adapt_site import SECRET, write_pairs, write_site
from phantoms import ct_series
from tiny_bundle import make_tiny_bundle

from medrestore_monai.adapt import Request
from medrestore_monai.adapt.run import _working_folder
from medrestore_monai.data import divide
from medrestore_monai.files import UsageError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles"))


def fingerprint(bundle, data, targets="clean"):
    request = Request(data, data.with_name("mine"), bundle, targets)
    return request.fingerprint(divide(data, targets))


def touch(path):
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))


def test_images_of_another_folder_or_time_are_others(bundle, tmp_path):
    data = write_site(tmp_path / "data", people=2, slices=1)
    first = fingerprint(bundle, data)
    assert fingerprint(bundle, data / ".." / "data") == first
    shutil.copytree(data, tmp_path / "copy")
    assert fingerprint(bundle, tmp_path / "copy") != first
    touch(data / f"{SECRET}0" / "ct.nii.gz")
    assert fingerprint(bundle, data) != first


@pytest.mark.parametrize("side", ["LQ", "HQ"])
def test_both_images_of_a_pair_count(bundle, tmp_path, side):
    data = write_pairs(tmp_path / "data", people=2, slices=1)
    first = fingerprint(bundle, data, "pairs")
    touch(data / f"{SECRET}1" / side / "ct.nii.gz")
    assert fingerprint(bundle, data, "pairs") != first


def test_all_files_of_a_series_count_and_no_others(bundle, tmp_path):
    files = ct_series(tmp_path / "data" / "a", slices=3)
    ct_series(tmp_path / "data" / "b", slices=3, series="b")
    first = fingerprint(bundle, tmp_path / "data")
    (tmp_path / "data" / "a" / "notes.txt").write_text("seen")
    assert fingerprint(bundle, tmp_path / "data") == first
    for file in files:
        before = fingerprint(bundle, tmp_path / "data")
        touch(file)
        assert fingerprint(bundle, tmp_path / "data") != before


def test_an_archive_of_a_series_is_one_file(bundle, tmp_path):
    ct_series(tmp_path / "series", slices=3)
    (tmp_path / "data").mkdir()
    archive = shutil.make_archive(str(tmp_path / "data" / "a"), "zip", tmp_path / "series")
    first = fingerprint(bundle, tmp_path / "data")
    assert fingerprint(bundle, tmp_path / "data") == first
    touch(tmp_path / "data" / archive)
    assert fingerprint(bundle, tmp_path / "data") != first


def test_both_files_of_a_nifti_pair_count(bundle, tmp_path):
    (tmp_path / "data").mkdir()
    nib.save(nib.Nifti1Pair(np.zeros((32, 32, 2), np.float32), np.eye(4)), tmp_path / "data" / "a.hdr")
    first = fingerprint(bundle, tmp_path / "data")
    touch(tmp_path / "data" / "a.img")
    assert fingerprint(bundle, tmp_path / "data") != first


def test_a_run_does_not_go_on_with_other_images(bundle, tmp_path):
    data = write_site(tmp_path / "data", people=2, slices=1)
    request = Request(data, tmp_path / "mine", bundle)
    with pytest.raises(KeyboardInterrupt), _working_folder(request, divide(data)):
        raise KeyboardInterrupt
    touch(data / f"{SECRET}0" / "ct.nii.gz")
    with (
        pytest.raises(UsageError, match="holds an adaptation with other images"),
        _working_folder(request, divide(data)),
    ):
        pass
