"""Maps of an audit, read back: on the grid of the source, with the same values, in DICOM and in NIfTI."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
from phantoms import ct_series, ct_volume

from medrestore_monai.audit.maps import Map, stored_values, write_map
from medrestore_monai.audit.reading import read_volume
from medrestore_monai.audit.volume import Volume


def signed_map(shape, seed=0):
    values = 9 * np.random.default_rng(seed).standard_normal(shape)
    values[:2] = 0
    return values.astype(np.float32)


def test_words_give_the_values_back_and_zero_exactly():
    for values in (signed_map((9, 8, 3)), np.abs(signed_map((9, 8, 3))), np.zeros((4, 5, 1))):
        stored, slope, intercept = stored_values(values)
        back = stored * slope + intercept
        assert stored.dtype == np.uint16
        np.testing.assert_allclose(back, values, atol=0.51 * slope + 1e-9)
        assert not back[:2].any()


def test_dicom_gets_a_parametric_map_of_its_slices(tmp_path):
    files = ct_series(tmp_path / "in", slices=4, size=(21, 16))
    image = read_volume(tmp_path / "in")
    values = signed_map(image.array.shape)
    path = write_map(tmp_path, Map("interval", "half-width", values, "HU"), image)
    assert path.name == "interval.dcm"
    read = pydicom.dcmread(path)
    assert read.SOPClassUID == "1.2.840.10008.5.1.4.1.1.30"
    assert read.ContentQualification == "RESEARCH"
    sources = [pydicom.dcmread(file) for file in files]
    assert read.StudyInstanceUID == sources[0].StudyInstanceUID
    assert read.SeriesInstanceUID != sources[0].SeriesInstanceUID
    assert read.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
    mapping = read.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "[hnsf'U]"
    frames = read.pixel_array * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept
    of_position = {
        tuple(float(x) for x in groups.PlanePositionSequence[0].ImagePositionPatient): frame
        for groups, frame in zip(read.PerFrameFunctionalGroupsSequence, frames, strict=True)
    }
    for index, source in enumerate(sources):  # in order of position, as the volume
        frame = of_position[tuple(float(x) for x in source.ImagePositionPatient)]
        np.testing.assert_allclose(frame, values[..., index].T, atol=mapping.RealWorldValueSlope)


@pytest.mark.parametrize("installed", [True, False])
def test_files_get_nifti_and_so_does_dicom_without_highdicom(tmp_path, monkeypatch, installed):
    if installed:
        image = Volume(ct_volume(3, (21, 16)), "CT", (0.7, 0.8, 2.0))
    else:
        ct_series(tmp_path / "in", slices=3, size=(21, 16))
        image = read_volume(tmp_path / "in")
        monkeypatch.setattr("medrestore_monai.audit.maps.find_spec", lambda _: None)
    values = signed_map(image.array.shape)
    path = write_map(tmp_path, Map("change", "change over noise", values, "1"), image)
    read = nib.load(path)
    assert path.name == "change.nii.gz"
    assert read.get_data_dtype() == np.uint16
    np.testing.assert_allclose(read.get_fdata(), values, atol=1e-3)
    np.testing.assert_allclose(read.header.get_zooms(), image.spacing, rtol=1e-5)
