"""A DICOMDIR stands for the files that it lists, if they are all there."""

import numpy as np
import phantoms
import pytest
from pydicom.fileset import FileSet

from medrestore_monai.dicom import DicomError, read_series


@pytest.fixture
def disc(tmp_path):
    files = FileSet()
    for file in phantoms.ct_series(tmp_path / "scan", slices=3, edit=_anonymous):
        files.add(file)
    files.write(tmp_path / "disc")
    return tmp_path / "disc"


def _anonymous(ds, index):
    ds.PatientID = "1"


def test_the_files_it_lists_are_read(disc):
    phantoms.mr_series(disc / "elsewhere", slices=2)
    np.testing.assert_array_equal(read_series(disc / "DICOMDIR").array, phantoms.ct_volume(3, 32))


def test_missing_files_are_counted(disc):
    next(file for file in disc.rglob("*") if file.is_file() and file.name != "DICOMDIR").unlink()
    with pytest.raises(DicomError, match="DICOMDIR lists 3 files, of which 2 are there: copy the whole disc"):
        read_series(disc / "DICOMDIR")


def test_files_elsewhere_are_not_followed(disc, tmp_path):
    victim = next(file for file in disc.rglob("*") if file.is_file() and file.name != "DICOMDIR")
    victim.rename(tmp_path / "outside")
    victim.symlink_to(tmp_path / "outside")
    with pytest.raises(DicomError, match="lists 3 files, of which 2 are there"):
        read_series(disc / "DICOMDIR")


def test_a_real_one_without_its_files(shared_data):
    with pytest.raises(DicomError, match="DICOMDIR lists 31 files, of which 0 are there"):
        read_series(shared_data.parent / "cases" / "inputs" / "dicomdir" / "DICOMDIR")
