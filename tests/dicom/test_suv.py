"""SUV from headers, against values worked out by hand; from a Bq/ml series to SUV and back through a bundle."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from phantoms import ct_series, pet_series
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from tiny_bundle import edit_json, make_tiny_bundle
from typer.testing import CliRunner

from medrestore_monai.cli import app
from medrestore_monai.data import LoadImageOrSeriesd
from medrestore_monai.dicom import SUVError, SUVOptions, read_series, suv_factor
from medrestore_monai.intensity import FromUnitRanged, ToUnitRanged, choose_range
from medrestore_monai.transforms.pet.activity import ToSUVd

HALF_LIFE = 6000.0  # s, so that 100 min leave one half


NO_TIME = {"RadiopharmaceuticalStartTime": None}


def header(**values):
    """80 kg and 400 MBq at 10:00; series begun at 11:40, one half life later: 200 MBq are left, 4e-4 g/Bq."""
    drug = Dataset()
    drug.RadiopharmaceuticalStartTime, drug.RadionuclideTotalDose, drug.RadionuclideHalfLife = "100000", 4e8, HALF_LIFE
    ds = Dataset()
    ds.Units, ds.DecayCorrection, ds.CorrectedImage, ds.PatientWeight = "BQML", "START", ["ATTN", "DECY"], 80
    ds.SeriesDate, ds.SeriesTime = "20200229", "114000"
    ds.AcquisitionDate, ds.AcquisitionTime = "20200229", "115000.25"
    ds.RadiopharmaceuticalInformationSequence = [drug]
    for name, value in values.items():
        owner = drug if name.startswith("Radi") else ds
        if value is None:
            delattr(owner, name)
        else:
            setattr(owner, name, value)
    return ds


def private(ds, group, creator, element, vr, value):
    ds.private_block(group, creator, create=True).add_new(element, vr, value)
    return ds


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 4e-4),
        ({"Units": "GML"}, 1.0),
        ({"DecayCorrection": "ADMIN"}, 2e-4),
        ({"DecayCorrection": "ADMIN", "RadiopharmaceuticalStartDateTime": "20200229090000"}, 2e-4),
        ({"PatientWeight": "40"}, 2e-4),
        # injected the evening before
        (
            {"RadiopharmaceuticalStartTime": "233000", "SeriesTime": "011000", "AcquisitionTime": "012000"},
            4e-4,
        ),
        ({**NO_TIME, "RadiopharmaceuticalStartDateTime": "20200229082000.000"}, 8e-4),
        # both, a second apart
        ({"RadiopharmaceuticalStartDateTime": "20200229100000", "RadiopharmaceuticalStartTime": "100001.5"}, 4e-4),
        # a zone, but not that of the scanner: the time counts, which is on the scanner's clock
        ({"RadiopharmaceuticalStartDateTime": "20200229080000+0000"}, 4e-4),
        ({"RadiopharmaceuticalStartDateTime": "20200228100000", "SeriesDate": "20200228"}, 4e-4),
        # 10:00 in Paris is 09:00 in London: 160 min
        (
            {**NO_TIME, "RadiopharmaceuticalStartDateTime": "20200229100000+0100", "TimezoneOffsetFromUTC": "+0000"},
            2e-4 * 2 ** (160 / 100),
        ),
        # ... and both say so, across midnight
        (
            {
                "RadiopharmaceuticalStartDateTime": "20200229003000+0100",
                "RadiopharmaceuticalStartTime": "233000",
                "TimezoneOffsetFromUTC": "+0000",
                "SeriesTime": "011000",
            },
            4e-4,
        ),
        # the series was processed the next day: the acquisition counts
        ({"SeriesDate": "20200301"}, 2e-4 * 2 ** ((110 * 60 + 0.25) / HALF_LIFE)),
        # ... and was 10 min into the scan; 60 s of frame have their mean 0.017 s before the middle
        (
            {"SeriesDate": "20200301", "FrameReferenceTime": 600_000 + 29_983, "ActualFrameDuration": 60_000},
            2e-4 * 2 ** (6000.25 / HALF_LIFE),
        ),
        # a long frame: ln(p / (1 - exp(-p))) / decay with p = ln 2 / 5 is 593.07 s
        ({"DecayCorrection": "NONE", "ActualFrameDuration": 1_200_000}, 2e-4 * 2 ** ((6600.25 + 593.069) / HALF_LIFE)),
        # no decay correction: 50 s of a frame that begins at 11:50:00.25
        ({"DecayCorrection": "NONE", "ActualFrameDuration": 50_000}, 2e-4 * 2 ** ((6600.25 + 24.988) / HALF_LIFE)),
    ],
)
def test_suv_by_hand(values, expected):
    assert suv_factor([header(**values)]) == pytest.approx(expected, rel=2e-6)


def test_vendors_private_elements():
    ge = private(header(SeriesDate="20200301"), 0x0009, "GEMS_PETD_01", 0x0D, "DT", "20200229114000.00")
    assert suv_factor([ge]) == pytest.approx(4e-4)
    philips = private(header(Units="CNTS"), 0x7053, "Philips PET Private Group", 0x00, "DS", "0.000321")
    assert suv_factor([philips]) == pytest.approx(0.000321)
    only_bqml = private(header(Units="CNTS"), 0x7053, "Philips PET Private Group", 0x09, "UN", b"2.5 ")
    assert suv_factor([only_bqml]) == pytest.approx(2.5 * 4e-4)
    with pytest.raises(SUVError, match=r"in counts, and its header has neither .*`suv_factor`"):
        suv_factor([header(Units="CNTS")])


def test_earliest_slice_is_the_start_of_a_reprocessed_series():
    slices = [header(SeriesDate="20200301", AcquisitionTime=time) for time in ("120000", "114000", "115000")]
    assert suv_factor(slices) == pytest.approx(4e-4)
    uneven = [header(DecayCorrection="NONE", AcquisitionTime=time) for time in ("120000", "114000")]
    with pytest.raises(SUVError, match="no usable time of the scan"):
        suv_factor(uneven)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"PatientWeight": None},
            r"PT1 has no usable Patient's Weight .* give `patient_weight` in kg, or `suv_factor`",
        ),
        ({"PatientWeight": 0}, "give `patient_weight` in kg, or"),
        ({"PatientWeight": 80000}, "give `patient_weight` in kg, or"),
        ({"RadionuclideTotalDose": 400}, "Radionuclide Total Dose .* give `injected_dose` in Bq, or"),
        (
            {"RadionuclideTotalDose": None, "RadiopharmaceuticalStartTime": None},
            "give `injected_dose` in Bq, `injection_time` as HHMMSS, or `suv_factor`",
        ),
        ({"RadionuclideHalfLife": None}, "give `half_life` in seconds"),
        (
            {"RadiopharmaceuticalStartDateTime": "20200101100000"},
            "more than 8 half lives before the scan, which cannot be",
        ),
        (
            {"RadiopharmaceuticalStartDateTime": "20200228100000"},
            "more than 8 half lives before the scan, which cannot be",
        ),
        ({"RadiopharmaceuticalStartDateTime": "20200301100000"}, "injection was after the scan, which cannot be"),
        # no injection of the day before, and where nobody can know of which day
        ({"RadiopharmaceuticalStartTime": "114010"}, "injection was after the scan, which cannot be"),
        (
            {"RadionuclideHalfLife": 282240},
            "no date, which a half life of 78 h needs: give `injection_time` as YYYYMMDDHHMM",
        ),
        # times that contradict each other
        ({"RadiopharmaceuticalStartDateTime": "20200229090000"}, "two times of injection, .* give `injection_time`"),
        (
            {**NO_TIME, "RadiopharmaceuticalStartDateTime": "20200229080000+0000"},
            r"does not say that of the scanner, .* give `injection_time` on the scanner's clock",
        ),
        ({"RadiopharmaceuticalStartTime": "109900"}, "cannot be"),
        ({"DecayCorrection": "LATER"}, r"Decay Correction \(0054,1102\): give .*`suv_factor`"),
        ({"CorrectedImage": ["DECY"]}, "not corrected for attenuation"),
        ({"Units": "CM2ML"}, "has other PET units"),
        ({"Units": "GML", "SUVType": "LBM"}, "another SUV Type"),
    ],
)
def test_what_is_missing_is_named_with_the_option_that_gives_it(values, message):
    with pytest.raises(SUVError, match=message) as caught:
        suv_factor([header(**values)], label="PT1")
    assert not any(str(value) in str(caught.value) for name, value in values.items() if "Start" in name and value)


def test_options_stand_in_for_the_header():
    bare = header(PatientWeight=None, RadionuclideTotalDose=None, RadionuclideHalfLife=None)
    del bare.RadiopharmaceuticalInformationSequence
    options = SUVOptions(weight=80, dose=4e8, half_life=HALF_LIFE, injection_time="100000")
    assert suv_factor([bare], options) == pytest.approx(4e-4)
    assert suv_factor([header()], SUVOptions(weight=40, injection_time="20200229082000")) == pytest.approx(4e-4)
    assert suv_factor([Dataset()], SUVOptions(factor=0.5)) == 0.5
    zirconium = header(RadionuclideHalfLife=282240)
    days = SUVOptions(injection_time="20200225114000")
    assert suv_factor([zirconium], days) == pytest.approx(2e-4 * 2 ** (4 * 86400 / 282240))
    contradicting = header(RadiopharmaceuticalStartDateTime="20200229090000")
    assert suv_factor([contradicting], SUVOptions(injection_time="100000")) == pytest.approx(4e-4)


def test_options_are_never_ignored():
    def philips(*elements):
        ds = header(Units="CNTS")
        for element, value in elements:
            private(ds, 0x7053, "Philips PET Private Group", element, "DS", value)
        return ds

    options = SUVOptions(weight=40)
    both = philips((0x00, "0.000321"), (0x09, "2.5"))
    assert suv_factor([both]) == pytest.approx(0.000321)
    assert suv_factor([both], options) == pytest.approx(2.5 * 2e-4)
    with pytest.raises(SUVError, match=r"\(7053,1000\) alone, .* give `suv_factor`"):
        suv_factor([philips((0x00, "0.000321"))], options)
    with pytest.raises(SUVError, match="in SUV already"):
        suv_factor([header(Units="GML")], options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1}, "weight must be above 0"),
        ({"weight": 70000}, "in kg"),
        ({"dose": 370}, "in Bq"),
        ({"injection_time": "9:45"}, "HHMMSS"),
        ({"injection_time": "256100"}, "cannot be"),
        ({"age": 3}, "no SUV option age"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SUVOptions.of(options)


@pytest.mark.skipif("MEDRESTORE_SHARED" not in os.environ, reason="needs MEDRESTORE_SHARED")
def test_real_series_of_a_scanner():
    files = sorted(Path(os.environ["MEDRESTORE_SHARED"], "data", "pet_fdg_headneck").glob("*/pet_*.dcm"))[::50]
    datasets = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    # 123.6 kg, 587.93 MBq at 08:45:00, 6151.687 s of a half life of 6586.2 s until 10:27:31.687
    assert suv_factor(datasets) == pytest.approx(123600 / (587929992.67578 * 0.5 ** (6151.687 / 6586.2)), rel=1e-9)
    for ds in datasets:  # as if the series were processed again later: the frame times give the same start
        ds.SeriesTime = "200000"
    assert suv_factor(datasets) == pytest.approx(4.0168e-4, rel=1e-4)


def usable_pet(folder, **knobs):
    def edit(ds, index):
        ds.SeriesDate = ds.AcquisitionDate = "20200102"
        ds.SeriesTime = ds.AcquisitionTime = "104946.2"  # one half life of F-18 after 09:00

    return pet_series(folder, slices=3, size=(24, 20), edit=edit, **knobs)


def test_series_in_bqml_is_scaled_by_its_suv_and_comes_back(tmp_path):
    usable_pet(tmp_path)
    item = LoadImageOrSeriesd("image", modality="PT")({"image": tmp_path})
    factor = 70 * 1000 / (3.7e8 / 2)
    assert item["image"].meta["suv_factor"] == pytest.approx(factor, rel=1e-6)
    scaled = ToUnitRanged("image", "PT")(item)
    torch.testing.assert_close(scaled["image"].as_tensor(), item["image"].as_tensor() * factor / 20)
    back = FromUnitRanged("pred", like="image")({**scaled, "pred": scaled["image"]})["pred"]
    torch.testing.assert_close(back.as_tensor(), item["image"].as_tensor(), rtol=3e-7, atol=0)
    suv = ToSUVd("image")(item)["image"]
    assert suv.meta["unit"] == "SUV"
    torch.testing.assert_close(suv.as_tensor(), item["image"].as_tensor() * factor)
    assert ToSUVd("image")({"image": suv})["image"] is suv


def test_frames_of_a_dynamic_series_share_one_moment_of_decay(tmp_path):
    """The series is said to begin within its frames: it was processed later, and the first frame's start counts."""
    for number in range(3):

        def edit(ds, index, number=number):
            ds.SOPInstanceUID, ds.TemporalPositionIdentifier = generate_uid(), number + 1
            ds.SeriesDate = ds.AcquisitionDate = "20200102"
            ds.SeriesTime, ds.AcquisitionTime = "102000", f"10{15 * number:02d}00"
            ds.FrameReferenceTime, ds.ActualFrameDuration = 900_000 * number, 1

        pet_series(tmp_path / f"{number}", slices=2, size=8, edit=edit)
    items = [{"image": tmp_path, "stack": number} for number in (1, 2, 3)]
    factors = [LoadImageOrSeriesd("image", modality="PT")(item)["image"].meta["suv_factor"] for item in items]
    expected = 70 * 1000 / (370e6 * 0.5 ** (3600 / 6586.2))  # from 9:00 to 10:00
    assert factors == pytest.approx([expected] * 3, rel=1e-4)
    assert suv_factor(read_series(tmp_path, stack=3).datasets) > 1.1 * expected  # what one frame alone says


def test_series_without_suv_loads_and_says_why_when_it_is_needed(tmp_path):
    def strip(ds, index):
        del ds.PatientWeight

    pet_series(tmp_path, slices=2, edit=strip)
    item = LoadImageOrSeriesd("image")({"image": tmp_path})
    assert "suv_factor" not in item["image"].meta
    for transform in (ToUnitRanged("image", "PT"), ToSUVd("image")):
        with pytest.raises(ValueError, match="give `patient_weight` in kg"):
            transform(item)
    known = LoadImageOrSeriesd("image", suv={"factor": 1e-3})({"image": tmp_path})
    assert known["image"].meta["suv_factor"] == 1e-3


def test_files_are_in_suv_by_default(tmp_path):
    suv = np.linspace(0, 30, 4 * 5 * 3, dtype=np.float32).reshape(4, 5, 3)
    nib.save(nib.Nifti1Image(suv, np.eye(4)), tmp_path / "suv.nii")
    nib.save(nib.Nifti1Image(suv * 2000, np.eye(4)), tmp_path / "bqml.nii")
    scale = ToUnitRanged("image", "PT")
    plain = scale(LoadImageOrSeriesd("image", modality="PT")({"image": tmp_path / "suv.nii"}))["image"]
    torch.testing.assert_close(plain[0].as_tensor(), torch.from_numpy(suv / 20))
    with pytest.raises(ValueError, match="up to 60000 are no SUV"):
        scale(LoadImageOrSeriesd("image", modality="PT")({"image": tmp_path / "bqml.nii"}))
    load = LoadImageOrSeriesd("image", modality="PT", suv={"factor": 1 / 2000})
    torch.testing.assert_close(scale(load({"image": tmp_path / "bqml.nii"}))["image"].as_tensor(), plain.as_tensor())
    with pytest.raises(ValueError, match="no DICOM header"):
        LoadImageOrSeriesd("image", modality="PT", suv={"weight": 70})({"image": tmp_path / "suv.nii"})
    with pytest.raises(ValueError, match="CT images have no SUV"):
        LoadImageOrSeriesd("image", modality="CT", suv={"weight": 70})


def test_range_in_bqml():
    intensity = choose_range(torch.zeros(1), "PT", unit="Bq/ml", suv_factor=4e-4)
    assert (intensity.unit, intensity.upper, intensity.window) == ("Bq/ml", 50000.0, (0.0, 50000.0))
    with pytest.raises(ValueError, match="suv_factor"):
        choose_range(torch.zeros(1), "PT", unit="Bq/ml")
    with pytest.raises(ValueError, match="SUV, Bq/ml or counts, got HU"):
        choose_range(torch.zeros(1), "PT", unit="HU")
    image = torch.zeros(100)
    image[:1] = 5e6  # SUV 2000: some of the injection beside the vein
    choose_range(image, "PT", unit="Bq/ml", suv_factor=4e-4)
    image[:2] = 5e6
    with pytest.raises(ValueError, match=r"^2 % of the PET values are over SUV 1000, which cannot be: check weight"):
        choose_range(image, "PT", unit="Bq/ml", suv_factor=4e-4)
    assert ToUnitRanged("image", "PT")({"image": MetaTensor(torch.full((1, 2, 2), 10.0))})["image"][0, 0, 0] == 0.5


@pytest.fixture(scope="module")
def pet_bundle(tmp_path_factory):
    root = make_tiny_bundle(tmp_path_factory.mktemp("bundles"))

    def for_pet(config):
        for part in ("scaling", "unscaling"):  # PET has no values that are outside
            steps = config[part]["transforms"]
            config[part]["transforms"] = [step for step in steps if not step["_target_"].endswith("Outsided")]
        (scale,) = config["scaling"]["transforms"]
        config["suv"] = {}
        config["load"].update(modality="PT", suv="@suv")
        scale["modality"] = "PT"
        keep = {"_target_": "medrestore_monai.transforms.pet.activity.KeepTotalActivityd", "keys": "pred"}
        config["unscaling"]["transforms"].insert(0, keep)

    edit_json(root / "configs" / "inference.json", for_pet)
    edit_json(root / "configs" / "metadata.json", lambda data: data["medrestore"].update(modalities=["PT"]))
    return root


@pytest.mark.slow
def test_restored_on_the_command_line_in_bqml(tmp_path, pet_bundle):
    usable_pet(tmp_path / "a")

    def strip(ds, index):
        del ds.PatientWeight, ds.RadiopharmaceuticalInformationSequence

    usable = ["--bundle", str(pet_bundle), "--trust-bundle", "--device", "cpu"]
    assert (
        CliRunner().invoke(app, ["restore", str(tmp_path / "a"), "-o", str(tmp_path / "out"), *usable]).exit_code == 0
    )
    before, after = read_series(tmp_path / "a").array, read_series(tmp_path / "out").array
    assert (before != after).any()
    # every slice keeps its activity; the rest is rounding to 16 bits
    np.testing.assert_allclose(after.sum(axis=(0, 1)), before.sum(axis=(0, 1)), rtol=1e-3)

    pet_series(tmp_path / "b", slices=2, size=(24, 20), edit=strip, series="b")
    refused = CliRunner().invoke(app, ["restore", str(tmp_path / "b"), "-o", str(tmp_path / "no"), *usable])
    assert refused.exit_code == 3
    assert (
        "--patient-weight in kg, --injected-dose in Bq, --half-life in seconds, --injection-time as HHMMSS"
        in refused.output
    )
    assert not (tmp_path / "no").exists()
    given = [
        "--patient-weight",
        "70",
        "--injected-dose",
        "370e6",
        "--half-life",
        "6586.2",
        "--injection-time",
        "080000",
    ]
    for number, more in enumerate((given, ["--suv-factor", "4e-4"])):
        command = ["restore", str(tmp_path / "b"), "-o", str(tmp_path / f"yes{number}"), *usable, *more]
        assert CliRunner().invoke(app, command).exit_code == 0


def test_bad_suv_options_on_the_command_line(tmp_path, pet_bundle):
    ct_series(tmp_path / "ct", slices=1)
    command = ["restore", str(tmp_path / "ct"), "-o", str(tmp_path / "out")]
    refused = CliRunner().invoke(
        app, [*command, "--bundle", str(pet_bundle), "--trust-bundle", "--patient-weight", "-3"]
    )
    assert refused.exit_code == 2
    assert "patient_weight must be a number in (0, 500], got -3.0" in refused.output
    other = CliRunner().invoke(app, [*command, "--suv-factor", "1"])  # a CT bundle
    assert other.exit_code == 2
    assert "suv" in other.output
