"""Enhanced multi-frame files are read as the single slices they are made of, and a valid classic series comes out."""

import shutil
import subprocess

import numpy as np
import phantoms
import pydicom
import pytest
from enhanced_files import make_enhanced, make_legacy, values_of
from pydicom.encaps import encapsulate, generate_frames

from medrestore_monai.dicom import Derivation, DicomError, read_series, read_stacks, suv_factor, write_derived_series

SERIES = {"CT": phantoms.ct_series, "MR": phantoms.mr_series, "PT": phantoms.pet_series}


def derived(path, out, **options):
    stacks = read_stacks(path)
    files = write_derived_series(stacks, [one.array for one in stacks], out, Derivation("denoise"), **options)
    return [pydicom.dcmread(file) for file in files]


@pytest.mark.parametrize("modality", SERIES)
def test_frames_equal_the_slices_they_are_made_of(tmp_path, modality):
    slices = SERIES[modality](tmp_path / "slices", slices=4, size=(9, 7))
    path = make_enhanced(tmp_path / "in" / "a.dcm", [slices[i] for i in (2, 0, 3, 1)])
    classic, series = read_series(tmp_path / "slices"), read_series(path)
    assert (series.modality, series.unit) == (classic.modality, classic.unit)
    np.testing.assert_array_equal(series.array, values_of(slices))
    np.testing.assert_array_equal(series.affine, classic.affine)
    for ours, theirs in zip(series.datasets, classic.datasets, strict=True):
        for keyword in ("PixelSpacing", "SliceThickness", "EchoTime", "KVP", "RescaleSlope", "RepetitionTime", "Units"):
            assert ours.get(keyword) == theirs.get(keyword)


@pytest.mark.parametrize("modality", SERIES)
def test_a_classic_series_comes_out_unchanged(tmp_path, modality):
    slices = SERIES[modality](tmp_path / "slices", slices=3, size=(10, 8))
    path = make_enhanced(tmp_path / "in" / "a.dcm", slices)
    written = derived(path, tmp_path / "out")
    assert [ds.SOPClassUID for ds in written] == [pydicom.dcmread(slices[0]).SOPClassUID] * 3
    assert [ds.SourceImageSequence[0].ReferencedFrameNumber for ds in written] == [1, 2, 3]
    assert written[0].SourceImageSequence[0].ReferencedSOPInstanceUID == pydicom.dcmread(path).SOPInstanceUID
    assert "PerFrameFunctionalGroupsSequence" not in written[0]
    assert "DimensionIndexValues" not in written[0]
    for ds, source in zip(written, slices, strict=True):
        if modality == "PT":
            before, after = (values_of([one]) for one in (source, ds.filename))
            np.testing.assert_allclose(after, before, rtol=1e-7)
        else:
            np.testing.assert_array_equal(ds.pixel_array, pydicom.dcmread(source).pixel_array)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("modality", SERIES)
def test_the_validator_finds_no_error_in_what_comes_out(tmp_path, modality):
    slices = SERIES[modality](tmp_path / "slices", slices=2, size=8)
    times = [1, 1, 2, 2] if modality == "PT" else None
    path = make_enhanced(tmp_path / "in" / "a.dcm", slices * (2 if times else 1), times)
    for ds in derived(path, tmp_path / "out"):
        run = subprocess.run(["dciodvfy", "-new", str(ds.filename)], capture_output=True, text=True, check=False)
        assert [line for line in run.stderr.splitlines() if line.startswith("Error")] == []


@pytest.mark.parametrize("modality", SERIES)
def test_legacy_converted_files_are_read_as_the_slices_they_are_made_of(tmp_path, modality):
    slices = SERIES[modality](tmp_path / "slices", slices=4, size=(9, 7))
    path = make_legacy(tmp_path / "in" / "a.dcm", [slices[i] for i in (2, 0, 3, 1)])
    classic, series = read_series(tmp_path / "slices"), read_series(path)
    assert (series.modality, series.unit) == (classic.modality, classic.unit)
    np.testing.assert_array_equal(series.array, values_of(slices))
    np.testing.assert_array_equal(series.affine, classic.affine)
    for ours, theirs in zip(series.datasets, classic.datasets, strict=True):
        for keyword in ("PixelSpacing", "EchoTime", "KVP", "Units", "FrameReferenceTime", "DecayFactor", "ScanOptions"):
            assert ours.get(keyword) == theirs.get(keyword)
    if modality == "PT":
        assert suv_factor(series.datasets) == suv_factor(classic.datasets)
    for ds, source in zip(derived(path, tmp_path / "out"), slices, strict=True):
        assert ds.SOPClassUID == pydicom.dcmread(source).SOPClassUID
        before, after = (values_of([one]) for one in (source, ds.filename))
        np.testing.assert_allclose(after, before, rtol=1e-7 if modality == "PT" else 0)


@pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.1.1"])
def test_angiography_is_refused_by_its_name(tmp_path, sop_class):
    """Classic runs of many frames, and enhanced ones."""
    path = phantoms.ct_series(tmp_path, slices=1, size=8)[0]
    ds = pydicom.dcmread(path)
    ds.SOPClassUID, ds.Modality, ds.NumberOfFrames, ds.PixelData = sop_class, "XA", 3, ds.PixelData * 3
    ds.save_as(path)
    with pytest.raises(
        DicomError, match=r"(Angiographic|XA) Image Storage \(modality XA\), where CT, MR, PET or X-ray"
    ):
        read_series(tmp_path)


def test_what_the_mr_header_says_of_the_sequence(tmp_path):
    slices = phantoms.mr_series(tmp_path / "slices", slices=2, size=8)
    more = {"EchoPulseSequence": "GRADIENT", "EchoPlanarPulseSequence": "YES"}
    (ds, _) = derived(make_enhanced(tmp_path / "a.dcm", slices, **more), tmp_path / "out")
    assert (list(ds.ScanningSequence), ds.SequenceVariant, ds.InPlanePhaseEncodingDirection) == (
        ["GR", "EP"],
        "NONE",
        "COL",
    )
    assert (ds.EchoTime, ds.FlipAngle, ds.EchoTrainLength, ds.MRAcquisitionType) == (3.5, 12, 1, "3D")


@pytest.mark.slow
@pytest.mark.parametrize("files", [1, 2])
def test_time_points_in_one_file_or_in_one_each(tmp_path, files):
    slices = phantoms.ct_series(tmp_path / "slices", slices=6, size=8)
    first, second = slices[:3], slices[3:]
    for file, source in zip(second, first, strict=True):  # the same places again
        ds = pydicom.dcmread(file)
        ds.ImagePositionPatient = pydicom.dcmread(source).ImagePositionPatient
        ds.save_as(file)
    if files == 1:
        make_enhanced(tmp_path / "in" / "a.dcm", first + second, [1, 1, 1, 2, 2, 2])
    else:
        for number, part in enumerate((first, second)):
            make_enhanced(tmp_path / "in" / f"{number}.dcm", part, [number + 1] * 3)
    stacks = read_stacks(tmp_path / "in")
    assert [str(one.name) for one in stacks] == ["time point 1 of 2", "time point 2 of 2"]
    for stack, part in zip(stacks, (first, second), strict=True):
        np.testing.assert_array_equal(stack.array, values_of(part))
    numbers = [int(ds.InstanceNumber) for ds in derived(tmp_path / "in", tmp_path / "out")]
    assert numbers == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("start", ["20200102090000", "20200102100000", "20200102110000"])
def test_suv_equals_that_worked_out_by_hand(tmp_path, start):
    """370 MBq at 9:00, 70 kg; decay corrected to the injection, to 10:00, or to a time after the frames."""
    slices = phantoms.pet_series(tmp_path / "slices", slices=2, size=8)
    series = read_series(make_enhanced(tmp_path / "a.dcm", slices, DecayCorrectionDateTime=start))
    left = 0.5 ** ((int(start[8:10]) - 9) * 3600 / 6586.2)
    assert suv_factor(series.datasets) == pytest.approx(70 * 1000 / (370e6 * left), rel=1e-6)
    assert (series.datasets[0].DecayCorrection, list(series.datasets[0].CorrectedImage)) == (
        "START" if left < 1 else "ADMIN",
        ["DECY", "ATTN"],
    )


def test_numbers_fit_what_a_classic_header_has_room_for(tmp_path):
    slices = phantoms.mr_series(tmp_path / "slices", slices=2, size=8)
    path = make_enhanced(tmp_path / "a.dcm", slices)
    ds = pydicom.dcmread(path)
    for frame in ds.PerFrameFunctionalGroupsSequence:
        frame.MREchoSequence[0].EffectiveEchoTime = float(np.float32(4.603))  # 4.6030001640319824
    ds.save_as(path)
    times = [str(one["EchoTime"].value) for one in derived(path, tmp_path / "out")]
    assert times == ["4.60300016403198"] * 2


def test_pet_without_a_unit_is_refused(tmp_path):
    slices = phantoms.pet_series(tmp_path / "slices", slices=2, size=8)
    path = make_enhanced(tmp_path / "a.dcm", slices)
    ds = pydicom.dcmread(path)
    for frame in ds.PerFrameFunctionalGroupsSequence:
        del frame.RealWorldValueMappingSequence
    ds.save_as(path)
    with pytest.raises(DicomError, match=r"a\.dcm does not map its values to Bq/ml, counts or SUV"):
        read_series(path)


@pytest.mark.parametrize("lost", [1, 8 * 8 * 2])
def test_a_file_cut_short_is_refused(tmp_path, lost):
    slices = phantoms.ct_series(tmp_path / "slices", slices=3, size=8)
    path = make_enhanced(tmp_path / "a.dcm", slices)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(DicomError, match=r"a\.dcm"):
        read_series(path)


def test_real_files_without_functional_groups_are_refused(shared_data):
    with pytest.raises(DicomError, match=r"functional groups for each.*export"):
        read_series(shared_data / "dicom_edge_cases" / "pydicom-data" / "emri_small.dcm")


def test_a_real_enhanced_ct_is_read_once_it_is_no_map(shared_data, tmp_path):
    ds = pydicom.dcmread(shared_data / "dicom_edge_cases" / "pydicom-data" / "eCT_Supplemental.dcm")
    with pytest.raises(DicomError, match="color or palette"):
        read_series(ds.filename)
    ds.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    ds.PhotometricInterpretation, ds.PixelPresentation = "MONOCHROME2", "MONOCHROME"
    shared = ds.SharedFunctionalGroupsSequence[0]
    for group in (shared, *ds.PerFrameFunctionalGroupsSequence):
        for kind in group.get("CTImageFrameTypeSequence") or []:
            kind.FrameType, kind.PixelPresentation = ds.ImageType, "MONOCHROME"
        for scale in group.get("PixelValueTransformationSequence") or []:
            scale.RescaleType = "HU"
    ds.save_as(tmp_path / "a.dcm")
    stacks = read_stacks(tmp_path / "a.dcm")
    frames = ds.pixel_array
    for stack in stacks:
        for index, file in enumerate(stack.files):
            np.testing.assert_array_equal(stack.stored(index), frames[file.frame].T)


def test_compressed_frames_are_decoded_one_by_one_and_checked(tmp_path):
    slices = phantoms.ct_series(tmp_path / "slices", slices=3, size=8)
    path = make_enhanced(tmp_path / "a.dcm", slices)
    ds = pydicom.dcmread(path)
    ds.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    ds.save_as(path)
    series = read_series(path)
    np.testing.assert_array_equal(series.slab(2, 3), values_of(slices)[..., 2:])
    np.testing.assert_array_equal(series.array, values_of(slices))
    frames = list(generate_frames(ds.PixelData, number_of_frames=3))
    ds.PixelData = encapsulate([*frames[:2], frames[2][:-40]])
    ds.save_as(path)
    with pytest.raises(DicomError, match=r"a\.dcm is damaged, or its compressed pixel data"):
        _ = read_series(path).array
