"""X-ray images (CR, DX): restored by the bundle that deblurs X-ray, stored values and display left as they are."""

import shutil

import numpy as np
import phantoms
import pydicom
import pytest
from test_identity import errors, identity_bundle

from medrestore_monai.audit import audit
from medrestore_monai.audit.writing import write_audit
from medrestore_monai.data import LoadImageOrSeriesd
from medrestore_monai.dicom import DicomError, read_series, read_stacks
from medrestore_monai.restorer import restore

CLASSES = {"CR": "1.2.840.10008.5.1.4.1.1.1", "DX": "1.2.840.10008.5.1.4.1.1.1.1"}
_PLACES = ("ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "FrameOfReferenceUID", "PixelSpacing")
_PLACES += ("RescaleType", "GantryDetectorTilt", "PositionReferenceIndicator", "ConvolutionKernel", "AcquisitionNumber")


def xray(folder, modality="DX", photometric="MONOCHROME1", **knobs):
    def edit(ds, index):
        ds.SOPClassUID, ds.Modality, ds.PhotometricInterpretation = CLASSES[modality], modality, photometric
        for keyword in _PLACES:
            if keyword in ds:
                delattr(ds, keyword)
        ds.ImagerPixelSpacing, ds.ViewPosition, ds.BodyPartExamined = [0.15, 0.2], "PA", "CHEST"
        ds.WindowCenter, ds.WindowWidth = 2000, 3000
        ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
        if modality == "CR":
            del ds.RescaleSlope, ds.RescaleIntercept
        else:
            ds.RescaleType, ds.PresentationIntentType = "US", "FOR PRESENTATION"

    volume = phantoms.ct_volume(knobs.get("slices", 1), (40, 24)) + 1024
    return phantoms.ct_series(folder, volume=volume, intercept=0, edit=edit, **knobs)


@pytest.mark.slow
@pytest.mark.parametrize("modality", CLASSES)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_no_stored_value_changes(tmp_path, modality, photometric):
    (file,) = xray(tmp_path / "in", modality, photometric)
    bundle = identity_bundle(tmp_path / "multimodal_deblur_meddeblur", "multimodal_deblur_meddeblur")
    restore(tmp_path / "in", tmp_path / "out", bundle, device="cpu", trust_bundle=True)
    before, after = pydicom.dcmread(file), pydicom.dcmread(tmp_path / "out" / "IM0001.dcm")
    np.testing.assert_array_equal(after.pixel_array, before.pixel_array)
    for keyword in ("PhotometricInterpretation", "WindowCenter", "WindowWidth", "ImagerPixelSpacing", "BitsStored"):
        assert after[keyword].value == before[keyword].value
    assert after.ImageType[0] == "DERIVED"
    if shutil.which("dciodvfy") is not None:
        assert errors(tmp_path / "out" / "IM0001.dcm") - errors(file) == set()


def test_the_network_sees_air_black(tmp_path):
    (file,) = xray(tmp_path / "in")
    image = LoadImageOrSeriesd("image")({"image": str(tmp_path / "in")})["image"]
    stored = pydicom.dcmread(file).pixel_array.T
    np.testing.assert_array_equal(image[0, ..., 0].numpy(), 4095 - stored)
    assert image.meta["intensity_range"] == [0, 4095]


def test_images_of_one_size_are_a_set_and_others_stacks(tmp_path):
    xray(tmp_path / "a", slices=2)
    series = read_series(tmp_path / "a")
    assert (series.shape, series.independent, series.spacing[:2]) == ((40, 24, 2), True, (0.2, 0.15))
    (lateral,) = xray(tmp_path / "b")
    ds = pydicom.dcmread(lateral)
    ds.Rows, ds.Columns, ds.SOPInstanceUID = ds.Columns, ds.Rows, "1.2.3"
    ds.save_as(tmp_path / "a" / "lateral.dcm")
    assert [stack.shape for stack in read_stacks(tmp_path / "a")] == [(40, 24, 2), (24, 40, 1)]


@pytest.mark.parametrize("modality", CLASSES)
def test_they_are_audited_as_gray_pictures(tmp_path, modality):
    for name in ("in", "out"):
        xray(tmp_path / name, modality)
    done = audit(tmp_path / "in", tmp_path / "out")
    assert (done.source.modality, done.source.unit, done.source.pixel) == ("GRAY", "gray levels", (0.2, 0.15))
    assert all(figure.change == 0 for figure in done.bias if figure.after is not None)
    assert done.source.array.max() > 1000  # in the values of the file, not in 8 bit
    write_audit(done, tmp_path / "report")
    assert (tmp_path / "report" / "audit.html").is_file()


def test_other_bundles_refuse_them(tmp_path):
    xray(tmp_path / "in")
    with pytest.raises(DicomError, match="modality DX, where CT is expected"):
        read_series(tmp_path / "in", modality="CT")
    bundle = identity_bundle(tmp_path / "rgb_deblur_mlff_unet", "rgb_deblur_mlff_unet")
    with pytest.raises(ValueError, match="in is DX: this model is for pictures"):
        restore(tmp_path / "in", tmp_path / "out", bundle, device="cpu", trust_bundle=True)
