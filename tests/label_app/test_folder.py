"""The real MONAI Label server on a folder of images, with the real CT bundle, against ``medrestore restore``."""

import json
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monailabel.client import MONAILabelClient
from phantoms import OBLIQUE, ct_series, ct_volume
from PIL import Image
from servers import BUNDLE, http, label_server, medrestore

from medrestore_monai.bundles import list_bundles
from medrestore_monai.dicom import read_series
from medrestore_monai.label_app import slicer_load

SIZE = (41, 37)  # odd, and not square
START = time.time()
AFFINE = np.array([[-0.7, 0.05, 0, 90], [0.05, -0.7, 0, 80], [0, 0, 2.5, -40], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    """Two volumes, a zipped oblique series, and a color picture that no CT bundle takes."""
    folder = tmp_path_factory.mktemp("studies")
    for name, slices in (("case00", 3), ("case01", 2)):
        nib.save(nib.Nifti1Image(ct_volume(slices, SIZE).astype(np.int16), AFFINE), folder / f"{name}.nii.gz")
    files = ct_series(tmp_path_factory.mktemp("series"), slices=4, size=SIZE, orientation=OBLIQUE)
    with zipfile.ZipFile(folder / "scan.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    Image.fromarray(np.zeros((9, 8, 3), dtype=np.uint8)).save(folder / "color.png")
    return folder


@pytest.fixture(scope="module")
def wanted(studies, tmp_path_factory) -> Path:
    """What ``medrestore restore`` makes of them."""
    out = tmp_path_factory.mktemp("wanted")
    for name in ("case00.nii.gz", "case01.nii.gz"):
        medrestore("restore", studies / name, "-o", out / name, "--modality", "CT")
    options = ["--modality", "CT", "--strength", "0.5"]
    medrestore("restore", studies / "case00.nii.gz", "-o", out / "half.nii.gz", *options)
    medrestore("restore", studies / "scan.zip", "-o", out / "scan")
    return out


@pytest.fixture(scope="module")
def server(studies, tmp_path_factory):
    with label_server(tmp_path_factory.mktemp("server"), studies) as started:
        yield started


def assert_same(result, values, affine, dtype="float32"):
    """Compare a volume with another one, within 1e-4 of its range."""
    image = nib.load(result)
    assert image.get_data_dtype() == np.dtype(dtype)
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    np.testing.assert_allclose(image.get_fdata(), values, rtol=0, atol=1e-4 * np.ptp(values))


def test_every_bundle_with_weights_is_offered(server):
    status, answer = http(f"{server.url}/info/")
    assert status == 200
    models = json.loads(answer)["models"]
    assert sorted(models) == [bundle.name for bundle in list_bundles() if bundle.weights.is_file()]
    assert BUNDLE in models
    assert {task["type"] for task in models.values()} == {"others"}
    assert models[BUNDLE]["labels"] == []
    assert models[BUNDLE]["config"]["strength"] == 1.0
    assert "write_back" not in models[BUNDLE]["config"]  # there is no store to write to


def test_a_volume_comes_back_as_the_command_restores_it(server, studies, wanted, tmp_path):
    truth = nib.load(wanted / "case00.nii.gz")
    given = nib.load(studies / "case00.nii.gz").get_fdata()
    assert np.abs(truth.get_fdata() - given).mean() > 5  # the network does something
    assert truth.get_fdata().min() < -900  # which 8 bits without sign cannot hold
    result = slicer_load.request_restored(server.url, BUNDLE, str(tmp_path), "case00")
    assert_same(result, truth.get_fdata(), AFFINE)
    options = {"result_dtype": "int16", "result_extension": ".nii"}
    result = slicer_load.request_restored(server.url, BUNDLE, str(tmp_path), "case00", **options)
    assert_same(result, truth.get_fdata(), AFFINE, "int16")
    assert result.endswith(".nii")


def test_options_reach_the_bundle(server, studies, wanted, tmp_path):
    half = slicer_load.request_restored(server.url, BUNDLE, str(tmp_path), "case00", strength=0.5)
    assert_same(half, nib.load(wanted / "half.nii.gz").get_fdata(), AFFINE)
    none = slicer_load.request_restored(server.url, BUNDLE, str(tmp_path), "case00", strength=0)
    assert_same(none, nib.load(studies / "case00.nii.gz").get_fdata(), AFFINE)


def test_a_sent_file_and_a_zipped_series_are_restored_too(server, studies, wanted, tmp_path):
    sent = slicer_load.request_restored(server.url, BUNDLE, str(tmp_path), file=str(studies / "case01.nii.gz"))
    assert_same(sent, nib.load(wanted / "case01.nii.gz").get_fdata(), AFFINE)
    series = read_series(wanted / "scan")
    zipped = slicer_load.request_restored(server.url, BUNDLE, str(tmp_path), "scan")
    assert_same(zipped, series.array, series.affine)


def test_the_client_of_monai_label_gets_the_file_and_what_was_done(server, wanted, tmp_path):
    path, done = MONAILabelClient(server.url, tmpdir=str(tmp_path)).infer(BUNDLE, "case01", {"strength": 1})
    assert_same(path, nib.load(wanted / "case01.nii.gz").get_fdata(), AFFINE)
    assert done["bundle"] == BUNDLE
    assert done["options"] == {"strength": 1.0}
    assert "For research, not a medical device." in done["notes"]


def test_requests_at_the_same_time_do_not_mix(server, wanted, tmp_path):
    names = ["case00", "case01"] * 4

    def ask(number):
        (tmp_path / str(number)).mkdir()
        return slicer_load.request_restored(server.url, BUNDLE, str(tmp_path / str(number)), names[number])

    with ThreadPoolExecutor(len(names)) as pool:
        results = list(pool.map(ask, range(len(names))))
    for name, result in zip(names, results, strict=True):
        assert_same(result, nib.load(wanted / f"{name}.nii.gz").get_fdata(), AFFINE)


@pytest.mark.parametrize(
    ("image", "model", "params", "status", "reason"),
    [
        (
            "case00",
            BUNDLE,
            {"result_dtype": "uint8", "result_extension": ".nrrd"},
            400,
            "result_dtype must be float32 or int16",
        ),
        ("case00", BUNDLE, {"tile": "$open('SENTINEL', 'w')"}, 400, "tile must be auto or a whole number"),
        ("case00", BUNDLE, {"strength": 2}, 400, "strength"),
        ("case00", BUNDLE, {"weights": "x.pt"}, 400, "no setting weights"),
        ("case00", BUNDLE, {"write_back": True}, 400, "needs a DICOMweb store"),
        ("case00", BUNDLE, {"device": "cuda:7"}, 400, "device must be "),
        ("color", BUNDLE, {}, 400, "color"),
        ("case99", BUNDLE, {}, 404, "there is no image 'case99'"),
        ("/etc/passwd", BUNDLE, {}, 404, "there is no image"),
        ("case00", "spleen", {}, 404, "there is no model 'spleen'"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_reason(server, image, model, params, status, reason):
    found, answer = server.infer(image, model, **params)
    assert found == status
    assert reason in answer["detail"]
    assert not list(server.app.parent.rglob("SENTINEL"))


def test_what_else_is_in_the_temporary_folder_is_not_given_away(server, studies):
    with tempfile.TemporaryDirectory() as folder:
        ct_series(Path(folder), slices=2, size=SIZE)
        assert server.infer(folder)[0] == 404
    with tempfile.NamedTemporaryFile(prefix="scan-", suffix=".nii.gz") as file:
        Path(file.name).write_bytes((studies / "case00.nii.gz").read_bytes())
        assert server.infer(file.name)[0] == 404


def planted(ds, index):
    """Texts of a patient, and a flaw that makes the slice unfit."""
    ds.PatientName, ds.PatientID, ds.PatientComments = "Canary^Planted", "Canary01X", "Canary02X"
    ds.StudyDescription, ds.SeriesDescription, ds.ProtocolName = "Canary03X", "Canary04X", "Canary05X"
    ds.RescaleType, ds.ImageComments, ds.InstitutionName = "Canary06X", "Canary07X", "Canary08X"


def test_no_answer_about_a_sent_series_quotes_its_header(server, tmp_path):
    files = ct_series(tmp_path / "series", slices=2, size=SIZE, edit=planted)
    with zipfile.ZipFile(tmp_path / "sent.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    with pytest.raises(Exception, match="another Rescale Type") as caught:
        slicer_load.request_restored(server.url, BUNDLE, str(tmp_path), file=str(tmp_path / "sent.zip"))
    assert "Canary" not in str(caught.value)
    image = nib.Nifti1Image(np.zeros((6, 5, 4), np.int16), np.eye(4))
    image.header["descrip"] = b"Canary09X"
    nib.save(image, tmp_path / "gray.nii")
    (tmp_path / "gray.nii").write_bytes((tmp_path / "gray.nii").read_bytes() + b"Canary10X")
    with pytest.raises(Exception, match="cannot be read") as caught:
        slicer_load.request_restored(server.url, BUNDLE, str(tmp_path), file=str(tmp_path / "gray.nii"))
    assert "Canary" not in str(caught.value) + server.logs()


def test_a_batch_runs_without_a_gpu_and_past_a_bad_image(server, studies, wanted):
    """In a process of its own, as MONAI Label does; with its defaults, which ask for all GPUs."""
    status, answer = http(f"{server.url}/batch/infer/{BUNDLE}?images=all", b"", method="POST")
    assert status == 200, answer
    until = time.monotonic() + 900
    while (task := json.loads(http(f"{server.url}/batch/infer")[1]))["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < until
        time.sleep(0.5)
    assert task["status"] == "DONE", task
    for name in ("case00", "case01"):
        truth = nib.load(wanted / f"{name}.nii.gz").get_fdata()
        assert_same(studies / "labels" / "original" / f"{name}.nii.gz", truth, AFFINE)
    series = read_series(wanted / "scan")
    assert_same(studies / "labels" / "original" / "scan.nii.gz", series.array, series.affine)
    assert not list((studies / "labels" / "original").glob("color*"))


def test_nothing_is_left_behind_and_nobody_is_named(server):
    assert not [path for path in Path("/tmp").glob("medrestore-label-*") if path.stat().st_mtime > START]
    assert "Canary" not in server.logs()
