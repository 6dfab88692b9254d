"""Series of every kind through a whole bundle around a network that changes nothing: no stored value changes."""

import shutil

import numpy as np
import phantoms
import pydicom
import pytest
from enhanced_files import make_enhanced
from test_identity import errors, identity_bundle

from medrestore_monai.dicom import read_series, read_stacks
from medrestore_monai.restorer import Restorer


@pytest.fixture(scope="module")
def restorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "ct_denoise_restore_rwkv"
    return Restorer(identity_bundle(folder, folder.name), device="cpu", trust_bundle=True)


def _second_phase(ds, index):
    ds.AcquisitionNumber, ds.InstanceNumber = 2, index + 101
    ds.SOPInstanceUID = f"1.2.3.{index + 1}"


def two_phases(folder):
    phantoms.ct_series(folder, slices=5, size=16)
    phantoms.ct_series(folder / "b", volume=phantoms.ct_volume(5, 16) + 3, edit=_second_phase)


def tilted_and_uneven(folder):
    phantoms.ct_series(folder, slices=5, size=16, tilt=15, positions=[0, 1.1, 5.1, 9.1, 16.1])


def enhanced(folder):
    slices = phantoms.ct_series(folder.parent / "slices", slices=4, size=16)
    make_enhanced(folder / "a.dcm", slices)


def compare(before, after):
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new.affine, old.affine)
        for index in range(old.shape[2]):
            np.testing.assert_array_equal(new.stored(index), old.stored(index))
            assert new.datasets[index].ImagePositionPatient == old.datasets[index].ImagePositionPatient
            assert new.datasets[index].InstanceNumber == old.datasets[index].InstanceNumber


@pytest.mark.slow
@pytest.mark.parametrize("slab", [0, 2])
@pytest.mark.parametrize("make", [two_phases, tilted_and_uneven, enhanced], ids=lambda make: make.__name__)
def test_no_stored_value_and_no_place_changes(tmp_path, restorer, make, slab):
    make(tmp_path / "in")
    result = restorer.restore_file(tmp_path / "in", tmp_path / "out", slab=slab)
    assert result.outputs == (tmp_path / "out",)
    compare(read_stacks(tmp_path / "in"), read_stacks(tmp_path / "out"))
    if shutil.which("dciodvfy") is None:
        return
    first, source = next((tmp_path / "out").rglob("*.dcm")), next((tmp_path / "in").rglob("*.dcm"))
    assert errors(first) - errors(source) == set()


@pytest.mark.slow
def test_one_stack_or_a_series_of_each(tmp_path, restorer):
    two_phases(tmp_path / "in")
    restorer.restore_file(tmp_path / "in", tmp_path / "one", stack=2)
    compare([read_series(tmp_path / "in", stack=2)], [read_series(tmp_path / "one")])
    assert sorted(path.name for path in (tmp_path / "one").iterdir())[0] == "IM0001.dcm"
    restorer.restore_file(tmp_path / "in", tmp_path / "split", split_series=True)
    series = {pydicom.dcmread(file).SeriesInstanceUID for file in (tmp_path / "split").rglob("*.dcm")}
    assert len(series) == 2
    with pytest.raises(ValueError, match="has 2 stack"):
        restorer.restore_file(tmp_path / "in", tmp_path / "three", stack=3)
    assert not (tmp_path / "three").exists()
