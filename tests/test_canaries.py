"""Sixty planted texts: which of them reach a message, a manifest or a result, and which characters a terminal sees."""

import gc
import json
import shutil
import warnings
import zipfile

import nibabel as nib
import numpy as np
import pytest
import tifffile
from phantoms import ct_series, pet_series
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import Dataset
from tiny_bundle import edit_json, make_tiny_bundle
from typer.testing import CliRunner

from medrestore_monai.cli import app
from medrestore_monai.images import read_image, write_image
from medrestore_monai.images.descriptions import technical_description
from medrestore_monai.texts import one_line, printable

PERSON = ("PatientName", "ReferringPhysicianName", "OperatorsName", "PerformingPhysicianName", "PatientBirthName")
TEXTS = (
    "PatientID",
    "AccessionNumber",
    "StudyID",
    "StudyDescription",
    "SeriesDescription",
    "ProtocolName",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "PatientAddress",
    "PatientComments",
    "ImageComments",
    "OtherPatientNames",
    "PatientTelephoneNumbers",
    "Occupation",
    "AdditionalPatientHistory",
    "RequestedProcedureDescription",
    "PerformedProcedureStepDescription",
    "StudyComments",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "ContentLabel",
    "MedicalAlerts",
    "Allergies",
    "RequestingService",
    "CurrentPatientLocation",
    "PatientState",
    "InterpretationText",
)


def canary(number):
    return f"Canary{number:02d}X"


def plant(ds, index=0):
    """Thirty-six texts, also in sequences and private elements."""
    for number, keyword in enumerate((*PERSON, *TEXTS)):
        setattr(ds, keyword, canary(number))
    item, inner = Dataset(), Dataset()
    item.CodeMeaning, inner.CodeMeaning = canary(33), canary(34)
    item.PurposeOfReferenceCodeSequence = [inner]
    ds.RequestAttributesSequence = [item]
    ds.private_block(0x0099, canary(35), create=True).add_new(1, "LO", canary(36))


def spoil(**values):
    def edit(ds, index):
        plant(ds, index)
        for keyword, value in values.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)

    return edit


FLAWS = [
    {"Modality": canary(37)},
    {"SOPClassUID": "1.2.3", "Modality": canary(37)},
    {"PhotometricInterpretation": canary(38)},
    {"RescaleType": canary(39)},
    {"Rows": 33},
    {"RescaleSlope": None},
    {"RescaleSlope": "1e30"},
    {"BitsStored": 40},
    {"NumberOfFrames": "7"},
    {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER", canary(41)]},
    {"PixelSpacing": [1, 0]},
    {"ImageOrientationPatient": [1, 1, 1, 0, 0, 0]},
    {"PixelData": b"12"},
]


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize("flaw", FLAWS, ids=str)
def test_no_message_about_a_series_quotes_its_header(tmp_path, flaw):
    ct_series(tmp_path / "in", slices=2, edit=spoil(**flaw))
    result = run("restore", tmp_path / "in", "-o", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 3
    assert "Canary" not in result.output


@pytest.mark.slow
@pytest.mark.parametrize(
    "flaw",
    [
        {"Units": canary(42)},
        {"SUVType": canary(43), "Units": "GML"},
        {"DecayCorrection": canary(44)},
        {"PatientWeight": None},
    ],
    ids=str,
)
def test_no_message_about_pet_quotes_its_header(tmp_path, flaw):
    pet_series(tmp_path / "in", slices=2, edit=spoil(**flaw))
    result = run(
        "restore", tmp_path / "in", "-o", tmp_path / "out", "--bundle", "pet_synthesis_restore_rwkv", "--device", "cpu"
    )
    assert result.exit_code == 3
    assert "Canary" not in result.output


@pytest.mark.slow
def test_a_list_of_series_and_a_manifest_quote_no_header(tmp_path, bundle):
    ct_series(tmp_path / "mixed", slices=2, edit=plant)
    ct_series(tmp_path / "mixed", slices=2, edit=plant, series="b")
    result = run("degrade", tmp_path / "mixed", "-o", tmp_path / "one", "--task", "gaussian_blur")
    assert result.exit_code == 3
    assert "2 series" in " ".join(result.output.split())
    assert "Canary" not in result.output
    for number, flaw in enumerate(FLAWS):
        ct_series(tmp_path / "many" / f"p{number:02d}", slices=2, edit=spoil(**flaw))
    ct_series(tmp_path / "many" / "good", slices=2, edit=plant)
    result = run("restore", tmp_path / "many", "-o", tmp_path / "out", "--bundle", bundle, "--device", "cpu")
    assert result.exit_code == 3
    manifest = (tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")
    assert "Canary" not in result.output + manifest
    assert len(json.loads(manifest)["studies"]) == len(FLAWS) + 1


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_neither_an_audit_nor_its_messages_quote_a_header(tmp_path, bundle, modality):
    def edit(ds, index):
        plant(ds, index)
        ds.DerivationDescription, ds.DerivationCodeSequence = canary(40), []
        for drug in ds.get("RadiopharmaceuticalInformationSequence", ()):
            drug.Radiopharmaceutical = canary(49)

    (ct_series if modality == "CT" else pet_series)(tmp_path / "in", slices=2, edit=edit)
    target = tmp_path / ("out" if modality == "CT" else "in")  # of PET, the source itself
    result = run("restore", tmp_path / "in", "-o", tmp_path / "out", "--bundle", bundle, "--device", "cpu")
    assert result.exit_code == (0 if modality == "CT" else 3), result.output
    audited = run("audit", tmp_path / "in", target, "-o", tmp_path / "report")
    assert audited.exit_code == 0, audited.output
    assert "Canary" not in result.output + audited.output
    for name in ("audit.html", "audit.json"):
        text = (tmp_path / "report" / name).read_text(encoding="utf-8")
        assert "Canary" not in text
        assert "CANARY" not in text  # the name and ID of the phantoms


@pytest.mark.slow
def test_no_evaluation_quotes_a_header(tmp_path, bundle):
    for patient in ("p0", "p1"):
        ct_series(tmp_path / "data" / patient, slices=2, edit=plant)
    out = tmp_path / "report"
    words = ("--data", tmp_path / "data", "-o", out, "--bundle", bundle, "--baselines", "none", "--device", "cpu")
    result = run("evaluate", *words)
    assert result.exit_code == 0, result.output
    written = [path for path in out.rglob("*") if path.is_file()]
    assert {".csv", ".json", ".md", ".png"} <= {path.suffix for path in written}
    for text in (result.output.encode(), *(path.read_bytes() for path in written)):
        assert b"canary" not in text.lower()
    ct_series(tmp_path / "data" / "p2", slices=2, edit=spoil(RescaleType=canary(39)))
    result = run("evaluate", *words, "--overwrite", "--skip-bad")
    assert "canary" not in result.output.lower()
    assert b"canary" not in (out / "table.md").read_bytes().lower()


def write_nifti(path):
    header = nib.Nifti1Header()
    for number, field in enumerate(("descrip", "aux_file", "intent_name", "db_name", "data_type")):
        header[field] = canary(45 + number).encode()
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", canary(50).encode()))
    nib.Nifti1Image(np.zeros((6, 5, 4), np.int16), np.eye(4), header).to_filename(path)


def write_png(path):
    info, exif = PngInfo(), Image.Exif()
    info.add_text("Comment", canary(51))
    info.add_text("Title", canary(52), zip=True)
    info.add_itxt("XML:com.adobe.xmp", canary(53))
    exif[315] = canary(54)  # artist
    Image.fromarray(np.zeros((6, 5), np.uint8)).save(path, pnginfo=info, exif=exif)


def write_jpeg(path):
    exif = Image.Exif()
    exif[315], exif[270] = canary(55), canary(56)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(path, exif=exif, comment=canary(57))


def write_tiff(path):
    tags = [(code, "s", 0, canary(number), True) for number, code in enumerate((269, 315, 316, 33432), start=58)]
    description = f"ImageJ=1.54\nimages=1\nInfo={canary(62)}\nunit=mm\nlabel={canary(63)}\n"
    tifffile.imwrite(
        path,
        np.zeros((6, 5), np.uint16),
        description=description,
        software=canary(64),
        extratags=tags,
        metadata=None,
        photometric="minisblack",
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "write", "first", "last"),
    [
        ("a.nii", write_nifti, 45, 50),
        ("a.png", write_png, 51, 54),
        ("a.jpg", write_jpeg, 55, 57),
        ("a.tif", write_tiff, 58, 64),
    ],
)
def test_no_free_text_of_a_file_reaches_its_result(tmp_path, name, write, first, last):
    write(tmp_path / name)
    image, meta = read_image(tmp_path / name)
    write_image(tmp_path / f"out_{name}", image, like=meta)
    source = (tmp_path / name).read_bytes()
    hidden = (52,)  # packed
    for number in range(first, last + 1):
        assert canary(number).encode() in source or number in hidden
    assert b"Canary" not in (tmp_path / f"out_{name}").read_bytes()
    if name == "a.png":
        assert Image.open(tmp_path / "out_a.png").text == {}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("ImageJ=1.54\nimages=3\nspacing=2.5", "ImageJ=1.54\nimages=3\nspacing=2.5"),
        ("ImageJ=1.54\nunit=mm\nname=Jane\nslices=Doe\n", "ImageJ=1.54\nunit=mm\n"),
        (
            "ImageJ=1.54\ncf=0\nc0=Jane\nc1=2.0\nvunit=Doe\nspacing=2",
            "ImageJ=1.54\ncf=0\nc1=2.0\nvunit=Gray Value\nspacing=2",
        ),
        ('{"shape": [3, 4], "name": "Jane"}', '{"shape": [3, 4]}'),
        ('{"shape": ["Jane"]}', ""),
        ("{" * 100_000, ""),
        ("Jane Doe", ""),
        ("<OME><!-- Jane --></OME>", ""),
        ('<!DOCTYPE x [<!ENTITY a "Jane">]><OME>&a;</OME>', ""),
    ],
)
def test_descriptions_keep_what_is_technical(text, kept):
    assert technical_description(text) == kept


def test_ome_keeps_sizes_and_no_names(tmp_path):
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "mm", "Name": "Jane", "Description": "Doe"}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((3, 6, 5), np.uint8), metadata=metadata, photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        text = tiff.ome_metadata
    assert "Jane" in text
    kept = technical_description(text)
    assert "Jane" not in kept
    assert "Doe" not in kept
    assert 'PhysicalSizeX="0.5" PhysicalSizeXUnit="mm"' in kept
    assert 'SizeZ="3"' in kept
    commented = text.replace("<Image ", "<!-- Jane --><Image ")
    assert "Jane" not in technical_description(commented)


CONTROL = "a\x1b[31mred\x07\r\n\u202eb\u200b"


def test_control_characters_are_escaped_and_long_texts_cut():
    assert printable(CONTROL) == r"a\x1b[31mred\x07\r\n\u202eb\u200b"
    assert one_line("two\n  lines\x00") == r"two lines\x00"
    assert printable("\udcff é") == "\\udcff é"
    assert printable("x" * 30, 15) == "xxxxx ... xxxxx"
    assert len(one_line("y" * 10**6)) == 2000 - 1


@pytest.mark.slow
def test_names_of_files_cannot_steer_a_terminal(tmp_path):
    name = "evil\x1b[2J\u202e.nii"
    (tmp_path / name).write_bytes(b"no header")
    result = run("restore", tmp_path / name, "-o", tmp_path / "out.nii", "--modality", "CT", "--device", "cpu")
    assert result.exit_code == 3
    assert r"evil\x1b[2J\u202e.nii" in result.output
    assert "\x1b[2J" not in result.output
    assert "\u202e" not in result.output
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x\x1b[2J.dcm", b"not a DICOM file")
    result = run("restore", tmp_path / "a.zip", "-o", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 3
    assert "\x1b[2J" not in result.output
    gc.collect()  # the unpacked archive


@pytest.mark.slow
def test_a_bundle_from_elsewhere_cannot_steer_a_terminal(tmp_path, bundle):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    (copy / "evil\x1b[2J.py").write_text("")
    result = run("bundles", "check", copy)
    assert result.exit_code == 3
    assert "[2J.py: a program" in result.output
    assert "\x1b[2J" not in result.output
    (copy / "evil\x1b[2J.py").unlink()
    edit_json(
        copy / "configs" / "metadata.json",
        lambda data: data["medrestore"]["settings"].update(odd={"kind": "int", "help": "a\x1b[2J"}),
    )
    (copy / "docs" / "README.md").write_text("# Card \x1b[2J\n\ntext\n")
    result = run("bundles", "show", copy)
    assert r"Card \x1b[2J" in result.output
    assert "\x1b[2J" not in result.output


def test_notes_cannot_steer_a_terminal(capsys):
    from medrestore_monai.cli.output import reported

    with reported():
        warnings.warn("a\x1b[2J" + "z" * 10**5, stacklevel=1)
    shown = capsys.readouterr().err
    assert "\x1b[2J" not in shown
    assert len(shown) < 3000
