"""Reading DICOM series: values and geometry against pydicom, MONAI and hand; every flaw is refused by name."""

import zipfile
from pathlib import Path

import numpy as np
import phantoms
import pydicom
import pytest
from monai.data import PydicomReader
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medrestore_monai.dicom import DicomError, DicomSeriesReader, find_series, read_series
from medrestore_monai.notes import Notes

SERIES = {"CT": phantoms.ct_series, "MR": phantoms.mr_series, "PT": phantoms.pet_series}


def setting(**values):
    """An edit that sets header elements in every slice."""
    return lambda ds, index: [setattr(ds, keyword, value) for keyword, value in values.items()]


def setting_in(slice_index, **values):
    """An edit that sets header elements in one slice."""
    return lambda ds, index: index == slice_index and [setattr(ds, keyword, value) for keyword, value in values.items()]


def removing(*keywords):
    """An edit that takes header elements out of every slice."""
    return lambda ds, index: [delattr(ds, keyword) for keyword in keywords if keyword in ds]


# values and geometry


@pytest.mark.parametrize("modality", SERIES)
def test_values_are_stored_times_slope_plus_intercept_of_each_slice(tmp_path, modality):
    files = SERIES[modality](tmp_path, slices=4, size=(9, 7))
    series = read_series(tmp_path)
    assert series.modality == modality
    assert series.array.dtype == np.float32
    assert series.array.shape == series.shape == (9, 7, 4)
    for index, file in enumerate(files):  # the files come in order of position
        ds = pydicom.dcmread(file)
        expected = ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
        np.testing.assert_array_equal(series.array[..., index], expected.T.astype(np.float32))
        np.testing.assert_array_equal(series.slab(index, index + 1)[..., 0], expected.T.astype(np.float32))


def test_hounsfield_units_are_those_written(tmp_path):
    phantoms.ct_series(tmp_path, slices=3)
    np.testing.assert_array_equal(read_series(tmp_path).array, phantoms.ct_volume(3, 32))


def test_slope_per_slice_of_a_ct(tmp_path):
    volume = phantoms.ct_volume(3, 16)
    phantoms.ct_series(tmp_path, volume=volume, slopes=[1, 1.000244, 0.5])
    assert np.abs(read_series(tmp_path).array - volume).max() <= 0.51


@pytest.mark.parametrize("modality", SERIES)
def test_array_and_affine_equal_those_of_monai(tmp_path, modality):
    SERIES[modality](tmp_path, slices=4, size=(9, 7), spacing=(0.8, 0.6))
    series = read_series(tmp_path)
    reader = PydicomReader()
    expected, meta = reader.get_data(reader.read(str(tmp_path)))
    np.testing.assert_allclose(series.array, expected, rtol=1e-6)
    np.testing.assert_allclose(series.affine, meta["affine"], atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_affine_by_hand_whatever_the_instance_numbers_say(tmp_path, reverse):
    phantoms.ct_series(tmp_path, slices=4, spacing=(0.8, 0.6), distance=2.5, reverse_numbers=reverse)
    series = read_series(tmp_path)
    # columns lead to the patient's left and rows to the back, so both have a minus in RAS
    expected = [[-0.6, 0, 0, 100], [0, -0.8, 0, 120], [0, 0, 2.5, 50], [0, 0, 0, 1]]
    np.testing.assert_allclose(series.affine, expected, atol=1e-9)
    np.testing.assert_allclose(series.spacing, (0.6, 0.8, 2.5))


def test_oblique_affine_maps_every_slice_to_its_position(tmp_path):
    files = phantoms.mr_series(tmp_path, slices=5, distance=1.2)
    affine = read_series(tmp_path).affine
    for index, file in enumerate(files):
        position = np.array([float(v) for v in pydicom.dcmread(file).ImagePositionPatient]) * (-1, -1, 1)
        np.testing.assert_allclose((affine @ [0, 0, index, 1])[:3], position, atol=1e-4)


def test_single_slice_file(tmp_path):
    files = phantoms.ct_series(tmp_path, slices=3)
    series = read_series(files[1])
    assert series.shape == (32, 32, 1)
    assert series.spacing == (0.75, 0.75, 2.5)  # as thick as the slice
    np.testing.assert_array_equal(series.array[..., 0], phantoms.ct_volume(3, 32)[..., 1])
    np.testing.assert_allclose(series.affine[:, 3], [100, 120, 52.5, 1])


def test_single_slice_without_a_position_is_read(tmp_path):
    edit = removing("ImagePositionPatient", "ImageOrientationPatient")
    (file,) = phantoms.ct_series(tmp_path, slices=1, edit=edit)
    np.testing.assert_allclose(np.diag(read_series(file).affine), [-0.75, -0.75, 2.5, 1])


def test_monochrome1_keeps_physical_values(tmp_path):
    phantoms.ct_series(tmp_path, slices=2, edit=setting(PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(read_series(tmp_path).array, phantoms.ct_volume(2, 32))


# finding


def test_other_files_are_passed_over(tmp_path):
    phantoms.ct_series(tmp_path / "a" / "b", slices=3)
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "DICOMDIR").write_bytes(b"an index")
    (tmp_path / "._hidden.dcm").write_bytes(b"a resource fork")
    report = phantoms.ct_series(tmp_path, slices=1, series="report")[0]
    ds = pydicom.dcmread(report)
    ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.88.11", "SR"
    del ds.PixelData
    ds.save_as(report)
    (series,) = find_series(tmp_path)
    assert (series.modality, series.description, len(series.files)) == ("CT", "phantom a", 3)


def test_links_to_folders_are_followed_and_none_is_entered_twice(tmp_path):
    files = phantoms.ct_series(tmp_path / "elsewhere" / "x", slices=4)
    (tmp_path / "scan" / "a").mkdir(parents=True)
    files[0].rename(tmp_path / "scan" / "a" / "first.dcm")
    (tmp_path / "scan" / "b").symlink_to("a")
    (tmp_path / "scan" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to("../scan")
    (tmp_path / "scan" / "a" / "top").symlink_to(tmp_path)
    (series,) = find_series(tmp_path / "scan")
    assert [file.label for file in series.files[:2]] == ["a/first.dcm", f"c/x/{min(file.name for file in files[1:])}"]
    assert read_series(tmp_path / "scan").shape == (32, 32, 4)


def without_preamble(file, **encoding):
    ds = pydicom.dcmread(file)
    ds = Dataset({element.tag: element for element in ds})
    pydicom.dcmwrite(file, ds, **encoding)
    assert file.read_bytes()[128:132] != b"DICM"


@pytest.mark.parametrize("implicit", [False, True])
def test_slices_without_preamble_are_read_in_either_encoding(tmp_path, implicit):
    for number, file in enumerate(phantoms.ct_series(tmp_path, slices=3)):
        without_preamble(file.rename(tmp_path / f"IM{number}"), implicit_vr=implicit, little_endian=True)
    np.testing.assert_array_equal(read_series(tmp_path).array, phantoms.ct_volume(3, 32))


def test_file_meta_information_without_preamble_is_read(tmp_path):
    file = phantoms.ct_series(tmp_path, slices=3)[2].rename(tmp_path / "IM3")
    file.write_bytes(file.read_bytes()[132:])
    np.testing.assert_array_equal(read_series(tmp_path).array, phantoms.ct_volume(3, 32))


def test_compressed_pixels_without_a_name_of_their_encoding_are_refused(tmp_path):
    file = phantoms.ct_series(tmp_path, slices=1)[0].rename(tmp_path / "IM3")
    ds = pydicom.dcmread(file)
    ds.PixelData = bytes.fromhex("feff00e0") + ds.PixelData[4:]
    ds.save_as(file)
    without_preamble(file, implicit_vr=False, little_endian=True)
    with pytest.raises(DicomError, match=r"^IM3 is compressed and does not say how: export"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    "head", [b"", b"\x08\0\x05", b"\x08\0\0\0\0\x02\0\0", b"\x02\0\0\0\x01\0\0\0", b"\x08\0\xff\xff\2\0\0\0"]
)
def test_other_files_that_begin_alike_are_passed_over(tmp_path, head):
    phantoms.ct_series(tmp_path, slices=3)
    (tmp_path / "numbers").write_bytes(head + bytes(200) * (len(head) > 3))
    report = phantoms.ct_series(
        tmp_path / "r", slices=1, series="r", edit=setting(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    )
    without_preamble(report[0].rename(tmp_path / "report"), implicit_vr=True, little_endian=True)
    assert len(find_series(tmp_path)[0].files) == 3


def test_subfolder_that_may_not_be_read(tmp_path, forbid):
    phantoms.ct_series(tmp_path, slices=3)
    (tmp_path / "more").mkdir()
    forbid("more")
    with pytest.raises(DicomError, match="more cannot be read: Permission denied"):
        find_series(tmp_path)


def test_two_series_are_listed_and_one_can_be_picked(tmp_path):
    phantoms.ct_series(tmp_path, slices=3)
    phantoms.pet_series(tmp_path, slices=2, series="b")
    uids = {series.modality: series.uid for series in find_series(tmp_path)}
    with pytest.raises(DicomError, match=r"2 series in .* `series_uid`: CT, 3 files, UID [\d.]+; PT") as caught:
        read_series(tmp_path)
    assert all(uid in str(caught.value) for uid in uids.values())
    assert read_series(tmp_path, series_uid=uids["PT"]).shape == (32, 32, 2)
    with pytest.raises(DicomError, match=r"no series 1\.2\.3 in .*CT, 3 files"):
        read_series(tmp_path, series_uid="1.2.3")


def test_wrong_modality(tmp_path):
    phantoms.mr_series(tmp_path, slices=2)
    with pytest.raises(DicomError, match="modality MR, where CT is expected"):
        read_series(tmp_path, modality="CT")
    with pytest.raises(ValueError, match="modality must be one of CT, PT, MR, got 'PET'"):
        read_series(tmp_path, modality="PET")


def test_nothing_to_read(tmp_path):
    with pytest.raises(DicomError, match="no DICOM image in"):
        read_series(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read_series(tmp_path / "absent")
    (tmp_path / "a.png").write_bytes(b"picture")
    with pytest.raises(DicomError, match=r"a\.png is not a DICOM file"):
        read_series(tmp_path / "a.png")


def test_archive_reads_like_its_folder(tmp_path):
    files = phantoms.ct_series(tmp_path / "series", slices=3)
    archive = tmp_path / "series.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for number, file in enumerate(files):
            packed.write(file, f"../../../escape{number}.dcm")  # a name that leads out of the folder
        packed.writestr("notes.txt", "not DICOM")
    before = {path.name for path in tmp_path.parent.parent.iterdir()}
    series = read_series(archive)
    np.testing.assert_array_equal(series.array, phantoms.ct_volume(3, 32))
    assert series.files[0].label == "../../../escape0.dcm"
    assert {path.name for path in tmp_path.parent.parent.iterdir()} == before
    unpacked = series.files[0].path.parent
    del series
    assert not unpacked.exists()


def test_archive_that_unpacks_to_too_much_or_not_at_all(tmp_path, monkeypatch):
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros.dcm", b"\0" * 4_000_000)
    monkeypatch.setattr("medrestore_monai.dicom.files.unpack_limit", lambda packed: 1_000_000)
    with pytest.raises(DicomError, match="would unpack to"):
        read_series(archive)
    archive.write_bytes(b"no archive")
    with pytest.raises(DicomError, match="cannot be unpacked"):
        read_series(archive)


def packed_file(path, name, content, method):
    with zipfile.ZipFile(path, "w", method) as packed:
        packed.writestr(name, content)
    return bytearray(path.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_archive_that_is_damaged_is_named_whatever_its_method(tmp_path, method):
    noise = np.random.default_rng(0).integers(0, 9, 4000).astype(np.uint8).tobytes()
    whole = packed_file(tmp_path / "a.zip", "a.dcm", noise, method)
    for place in range(35, len(whole), 31):
        damaged = whole.copy()
        damaged[place] ^= 0x55
        (tmp_path / "a.zip").write_bytes(damaged)
        with pytest.raises(DicomError, match=r"a\.(zip|dcm)"):
            find_series(tmp_path / "a.zip")


def test_archive_with_a_name_that_is_no_text(tmp_path):
    whole = packed_file(tmp_path / "a.zip", "\u00e9.dcm", b"x", zipfile.ZIP_STORED)
    (tmp_path / "a.zip").write_bytes(whole.replace("\u00e9".encode(), b"\xff\xfe"))
    with pytest.raises(DicomError, match=r"a\.zip cannot be unpacked: it is damaged"):
        find_series(tmp_path / "a.zip")


# refusals: geometry


def test_missing_slice(tmp_path):
    phantoms.ct_series(tmp_path, slices=6, skip=[3])
    with pytest.raises(
        DicomError, match=r"1 slice\(s\) missing between a\d+\.dcm and a\d+\.dcm, which are 5\.00 mm apart"
    ):
        read_series(tmp_path)
    series = read_series(tmp_path, allow_gaps=True)
    assert not series.regular
    np.testing.assert_array_equal(series.array, phantoms.ct_volume(6, 32)[..., [0, 1, 2, 4, 5]])


def test_missing_slice_of_three(tmp_path):
    phantoms.ct_series(tmp_path, slices=4, skip=[1])
    with pytest.raises(DicomError, match="missing"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    "positions",
    [
        [0, 4, 8, 15, 22],
        [0, 1.1, 5.1, 9.1, 16.1],
        [0, 2.5, 5, 7.5, 12.5, 17.5, 22.5],  # twice as far, three times: a change of spacing
        [0, 4, 8, 9],
        [0, 6, 40, 41],
    ],
)
def test_uneven_spacing_is_read_with_a_note(tmp_path, positions):
    phantoms.ct_series(tmp_path, slices=len(positions), positions=positions)
    with Notes() as notes:
        series = read_series(tmp_path)
    gaps = np.diff(positions)
    assert f"slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart" in notes.messages[0]
    assert not series.regular
    np.testing.assert_allclose(series.slice_steps, gaps)
    np.testing.assert_array_equal(series.array, phantoms.ct_volume(len(positions), 32))


@pytest.mark.parametrize("positions", [[0, 2, 4, 10, 12], [0, 2, 6, 10, 12, 14], [0, 5, 15]])
def test_a_wide_gap_among_equal_ones_is_a_hole(tmp_path, positions):
    phantoms.ct_series(tmp_path, slices=len(positions), positions=positions)
    with pytest.raises(DicomError, match=r"slice\(s\) missing between .*`allow_gaps`"):
        read_series(tmp_path)
    assert read_series(tmp_path, allow_gaps=True).shape == (32, 32, len(positions))


def test_positions_rounded_by_the_scanner_are_even(tmp_path):
    phantoms.ct_series(tmp_path, slices=5, positions=[0, 0.63, 1.25, 1.88, 2.5])  # 0.625 mm
    assert read_series(tmp_path).spacing[2] == pytest.approx(0.625)


def test_gantry_tilt_is_read_with_a_note(tmp_path):
    files = phantoms.ct_series(tmp_path, slices=4, tilt=18.5)
    with Notes() as notes:
        series = read_series(tmp_path)
    assert "tilted by 18.5 degrees" in notes.messages[0]
    assert series.slice_steps.tolist() == [0, 0, 0]  # no slice lies above another
    for index, file in enumerate(files):
        position = np.array([float(v) for v in pydicom.dcmread(file).ImagePositionPatient]) * (-1, -1, 1)
        np.testing.assert_allclose((series.affine @ [0, 0, index, 1])[:3], position, atol=1e-4)


def test_tilt_in_the_header_of_a_single_slice_does_no_harm(tmp_path):
    phantoms.ct_series(tmp_path, slices=1, edit=setting(GantryDetectorTilt=12))
    assert read_series(tmp_path).shape == (32, 32, 1)


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_missing_geometry(tmp_path, keyword):
    phantoms.ct_series(tmp_path, slices=2, edit=removing(keyword))
    with pytest.raises(DicomError, match=f"no valid {keyword}"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "has 2 stacks"),
        ({"PixelSpacing": [0.7, 0.75]}, "has 2 stacks"),
        ({"FrameOfReferenceUID": "1.2.3"}, "has 2 stacks"),
        ({"Rows": 16}, "holds 2048 bytes of pixel data where 1024 are expected"),
        ({"PixelRepresentation": 1}, "differ in PixelRepresentation"),
        ({"BitsStored": 16, "HighBit": 15}, "differ in BitsStored"),
        ({"StudyInstanceUID": "1.2.3"}, "differ in StudyInstanceUID"),
    ],
)
def test_slices_that_differ(tmp_path, values, message):
    phantoms.ct_series(tmp_path, slices=3, edit=setting_in(1, **values))
    with pytest.raises(DicomError, match=message):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"PixelSpacing": [0, 0.75]}, "positive mm"),
        ({"PixelSpacing": [1e9, 1e9]}, "positive mm, up to 100,"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not perpendicular"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "not perpendicular"),
    ],
)
def test_geometry_that_makes_no_sense(tmp_path, values, message):
    phantoms.ct_series(tmp_path, slices=2, edit=setting(**values))
    with pytest.raises(DicomError, match=message):
        read_series(tmp_path)


# refusals: one slice


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"RescaleSlope": 0}, "has the slope 0 and"),
        ({"RescaleSlope": None}, "no RescaleSlope"),
        ({"RescaleType": "MGML"}, "another Rescale Type .*, where HU"),
        ({"NumberOfFrames": 3}, "3 frames"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "color or palette"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "color or palette"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"BitsAllocated": 32}, "bit layout"),
        ({"BitsStored": 17}, "bit layout"),
        ({"HighBit": 15}, "bit layout"),
        ({"BitsStored": 8, "HighBit": 7}, "outside the 8 bits"),
        ({"Rows": 64}, "cut short: 2048 bytes of pixel data where 4096"),
        ({"Rows": 65535, "Columns": 65535}, "65535 columns"),
        ({"Rows": 0}, "0 rows"),
        ({"ModalityLUTSequence": Sequence([Dataset()])}, "look-up table"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1"}, "without functional groups"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "Secondary Capture"),
        ({"Modality": "MR"}, "modality MR in a CT Image Storage"),
        ({"SOPInstanceUID": ""}, "no SOPInstanceUID"),
        ({"SeriesInstanceUID": ""}, "no SeriesInstanceUID"),
    ],
)
def test_slice_that_is_no_plain_ct(tmp_path, values, message):
    phantoms.ct_series(tmp_path, slices=1, edit=setting(**values))
    with pytest.raises(DicomError, match=message):
        _ = read_series(tmp_path).array


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["M", "ND", "MOSAIC"], "mosaic"),
        (["P", "ND"], "phase"),
        (["REAL"], "real"),
        (["M_FFE", "IMAGINARY"], "imaginary"),
        (["R_IR", "R", "IR"], "real"),
        (["I", "NORM"], "imaginary"),
        (["VELOCITY MAP"], "phase"),
    ],
)
def test_mr_slice_that_is_no_magnitude_of_one_slice(tmp_path, kinds, message):
    phantoms.mr_series(tmp_path, slices=1, edit=setting(ImageType=["ORIGINAL", "PRIMARY", *kinds]))
    with pytest.raises(DicomError, match=message):
        _ = read_series(tmp_path).array


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_magnitudes_of_ge_are_known_by_their_private_element(tmp_path, number):
    def edit(ds, index):
        ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
        ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", number)

    phantoms.mr_series(tmp_path, slices=2, edit=edit)
    if number == 0:
        assert read_series(tmp_path).array.shape[-1] == 2
    else:
        with pytest.raises(DicomError, match="phase, real or imaginary"):
            _ = read_series(tmp_path).array


def test_a_projection_of_pet_is_no_slice(tmp_path):
    phantoms.pet_series(tmp_path, slices=1, edit=setting(SeriesType=["WHOLE BODY", "REPROJECTION"]))
    with pytest.raises(DicomError, match="projection"):
        _ = read_series(tmp_path).array


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Units": "PROPCNTS"}, "other PET units .*, where BQML"),
        ({"Units": None}, "other PET units .*, where BQML"),
        ({"Units": "GML", "SUVType": "LBM"}, "another SUV Type .*, where SUV by body weight"),
    ],
)
def test_pet_in_other_units(tmp_path, values, message):
    phantoms.pet_series(tmp_path, slices=1, edit=setting(**values))
    with pytest.raises(DicomError, match=message):
        read_series(tmp_path)


@pytest.mark.parametrize(("units", "unit"), [("GML", "SUV"), ("CNTS", "counts")])
def test_pet_stored_in_suv_or_counts(tmp_path, units, unit):
    phantoms.pet_series(tmp_path, slices=1, edit=setting(Units=units))
    assert read_series(tmp_path).unit == unit


def test_no_message_names_the_patient(tmp_path, recwarn, caplog):
    """pydicom warns of values that break a rule, logs them too, and quotes them."""
    edit = setting(StudyInstanceUID="1.2.canary")
    with pytest.warns(UserWarning, match="canary"):
        phantoms.ct_series(tmp_path, slices=4, skip=[1], edit=edit)
    recwarn.clear()
    caplog.clear()
    with pytest.raises(DicomError) as caught:
        read_series(tmp_path)
    messages = [str(caught.value), caplog.text, *(str(warning.message) for warning in recwarn)]
    assert "canary" not in " ".join(messages).lower()


# damaged files


@pytest.mark.parametrize("kept", [0, 60, 140, 300, 700, 1500, -1, -1500])
def test_file_cut_short_anywhere(tmp_path, kept):
    files = phantoms.ct_series(tmp_path, slices=3)
    data = files[1].read_bytes()
    files[1].write_bytes(data[:kept])
    with pytest.raises(DicomError, match=files[1].name):
        read_series(tmp_path)


@pytest.mark.slow
def test_random_bytes_changed_never_give_another_error(tmp_path):
    (file,) = phantoms.ct_series(tmp_path, slices=1, size=8)
    data, rng = file.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        broken = bytearray(data)
        for place in rng.integers(132, len(data), 4):
            broken[place] = rng.integers(256)
        file.write_bytes(broken)
        try:
            assert read_series(file).array.shape[2] == 1
        except DicomError:
            refused += 1
    assert refused > 20


def test_bomb_of_nested_sequences(tmp_path):
    (file,) = phantoms.ct_series(tmp_path, slices=1)
    data = file.read_bytes()
    # (0040,0275) SQ of undefined length, its item of undefined length, 3000 times: no need to close them
    opening = bytes.fromhex("40007502 5351 0000 ffffffff feff00e0 ffffffff")
    place = data.index(bytes.fromhex("e07f1000"))
    file.write_bytes(data[:place] + opening * 3000 + data[place:])
    with pytest.raises(DicomError, match=f"{file.name}.*nested too deeply"):
        read_series(tmp_path)


def test_deflated_file(tmp_path):
    (file,) = phantoms.ct_series(tmp_path, slices=1)
    ds = pydicom.dcmread(file)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    ds.save_as(file)
    with pytest.raises(DicomError, match="deflated"):
        read_series(tmp_path)


# MONAI


def test_load_image_with_our_reader(tmp_path):
    phantoms.pet_series(tmp_path, slices=3, size=(9, 7))
    load = Compose(
        [LoadImaged("image", reader=DicomSeriesReader, modality="PT", image_only=True), EnsureChannelFirstd("image")]
    )
    image = load({"image": str(tmp_path)})["image"]
    series = read_series(tmp_path)
    assert image.shape == (1, 9, 7, 3)
    np.testing.assert_array_equal(image[0].numpy(), series.array)
    np.testing.assert_allclose(image.affine.numpy(), series.affine)
    meta = image.meta
    assert (meta["source"], meta["series_uid"]) == (str(tmp_path), series.uid)
    assert (meta["modality"], meta["unit"], str(meta["space"])) == ("PT", "Bq/ml", "RAS")


def test_load_image_passes_our_sentence_on(tmp_path):
    phantoms.ct_series(tmp_path, slices=4, skip=[1])
    with pytest.raises(DicomError, match="missing"):
        LoadImaged("image", reader=DicomSeriesReader)({"image": tmp_path})


def test_reader_says_what_it_reads(tmp_path):
    files = phantoms.ct_series(tmp_path / "s", slices=1)
    (tmp_path / "a.nii.gz").write_bytes(b"")
    reader = DicomSeriesReader()
    assert reader.verify_suffix(str(tmp_path / "s"))
    assert reader.verify_suffix(files[0])
    assert reader.verify_suffix("somewhere/series.ZIP")
    assert not reader.verify_suffix(tmp_path / "a.nii.gz")
    assert not reader.verify_suffix([files[0], files[0]])
    with pytest.raises(ValueError, match="one DICOM file, folder or archive per image, got 2"):
        reader.read([files[0], files[0]])


# real data


@pytest.mark.parametrize(
    ("folder", "shape", "unit"),
    [
        ("ct_chest_lidc/LIDC-IDRI-0314_dicom", (512, 512, 6), "HU"),
        ("mri_abdomen_t2_cmbcrc/dicom", (584, 512, 2), "arbitrary"),
    ],
)
def test_real_series_equals_monai(shared_data, folder, shape, unit):
    series = read_series(shared_data / folder)
    assert (series.shape, series.unit) == (shape, unit)
    reader = PydicomReader()
    expected, meta = reader.get_data(reader.read(str(shared_data / folder)))
    if meta["affine"][2, 2] * series.affine[2, 2] < 0:  # instance numbers that run against the normal
        expected = expected[..., ::-1]
        meta["affine"] = meta["affine"] @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, shape[2] - 1], [0, 0, 0, 1]])
    np.testing.assert_allclose(series.array, expected)
    np.testing.assert_allclose(series.affine, meta["affine"], atol=1e-6)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("dicom_edge_cases/dicom2nifti/sliceincrement_001", "missing between"),
        ("dicom_edge_cases/dicom2nifti/sliceorientation_001", "stacks"),
        ("ct_lung_tcga/dicom", "6 series"),
        ("dicom_edge_cases/pydicom/MR_truncated.dcm", "cut short: 8130 bytes"),
        ("dicom_edge_cases/pydicom/meta_missing_tsyntax.dcm", "transfer syntax"),
        ("dicom_edge_cases/pydicom/image_dfl.dcm", "deflated"),
        ("dicom_edge_cases/pydicom/badVR.dcm", "RT Dose"),
        ("dicom_edge_cases/pydicom-data/emri_small.dcm", "without functional groups"),
        ("rgb_blood_bccd", "no DICOM image"),
    ],
)
def test_real_input_that_is_refused(shared_data, place, message):
    with pytest.raises(DicomError, match=message):
        read_series(shared_data / place)


@pytest.mark.parametrize(
    ("place", "notes"),
    [
        ("ct_head_gantry_tilt", ["tilted by 18.5 degrees", "1.08 to 7.00 mm apart"]),
        ("dicom_edge_cases/dicom2nifti/gantrytilting_001", ["tilted by 14"]),
        ("ct_lowdose_pairs/L143/quarter_3mm_D45", ["mm apart"]),
    ],
)
def test_real_series_with_odd_places_are_read(shared_data, place, notes):
    with Notes() as found:
        series = read_series(shared_data / place)
    assert len(found.messages) == len(notes)
    assert all(words in text for words, text in zip(notes, found.messages, strict=True))
    assert series.shape[2] == sum(file.suffix.lower() in (".dcm", ".ima") for file in (shared_data / place).iterdir())


def test_real_oblique_series_maps_every_slice_to_its_position(shared_data):
    """MONAI gives up on this one: its numbers are longer than the 16 characters a DS may have."""
    series = read_series(shared_data / "mri_brain_t1_studyforrest" / "dicom")
    assert (series.shape, series.unit) == ((274, 384, 8), "arbitrary")
    for index, file in enumerate(series.files):
        ds = pydicom.dcmread(file.path)
        row, column = np.array(ds.ImageOrientationPatient, dtype=float).reshape(2, 3)
        last = np.array(ds.ImagePositionPatient, dtype=float) + 273 * row * ds.PixelSpacing[1]
        np.testing.assert_allclose((series.affine @ [273, 0, index, 1])[:3], last * (-1, -1, 1), atol=1e-3)
        assert column @ row == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_every_edge_case_is_read_or_refused_in_one_sentence(shared_data):
    outcomes = {}
    for file in sorted((shared_data / "dicom_edge_cases").glob("pydicom*/*")):
        try:
            outcomes[file.name] = read_series(file).array.shape
        except DicomError as error:
            outcomes[file.name] = str(error)
    assert len(outcomes) == 35
    sentences = {name: text for name, text in outcomes.items() if isinstance(text, str)}
    assert all(name in text and "\n" not in text and text.endswith(".") for name, text in sentences.items())
    assert outcomes["MR_small_RLE.dcm"] == outcomes["MR_small_bigendian.dcm"] == (64, 64, 1)


def test_other_encodings_of_one_slice_are_equal(shared_data):
    folder: Path = shared_data / "dicom_edge_cases" / "pydicom"
    first = read_series(folder / "MR_small_implicit.dcm").array
    for name in ("MR_small_bigendian.dcm", "MR_small_RLE.dcm", "MR_small_padded.dcm"):
        np.testing.assert_array_equal(read_series(folder / name).array, first)


@pytest.mark.parametrize("lost", [b"", b"\0" * 4000])
def test_a_lost_slice_at_an_end_is_named(tmp_path, lost):
    """A file that kept nothing of DICOM, among others of its kind of name without a suffix."""
    files = phantoms.ct_series(tmp_path / "in", slices=4)
    for number, file in enumerate(files):
        file.rename(tmp_path / "in" / f"IM00{number}")
    (tmp_path / "in" / "DONE").touch()  # as scripts leave behind
    (tmp_path / "in" / "VERSION2").touch()
    (tmp_path / "in" / "IM003.md").touch()
    assert read_series(tmp_path / "in").shape[2] == 4
    (tmp_path / "in" / "IM003").write_bytes(lost)
    with pytest.raises(DicomError, match=r"IM003 is empty or zeros at the beginning, .* copy the files again"):
        read_series(tmp_path / "in")
    problems = []
    find_series(tmp_path / "in", problems)
    assert len(problems) == 1
