"""The real MONAI Label server on a real Orthanc: series from the store, restored series back into it."""

import io
import json
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicomweb_client import DICOMwebClient
from phantoms import OBLIQUE, ct_series, mr_series
from pydicom import dcmread
from pydicom.dataset import Dataset
from servers import BUNDLE, http, label_server, medrestore, orthanc

from medrestore_monai.dicom import read_series
from medrestore_monai.label_app import slicer_load
from medrestore_monai.label_app.dicomweb import store_series

SIZE = (41, 37)  # odd, and not square
START, TEMPORARY = time.time(), Path(tempfile.gettempdir())


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """An oblique CT series, one without its middle slice, and an MR series: folders by name."""
    folder = tmp_path_factory.mktemp("scans")
    ct_series(folder / "ct", size=SIZE, orientation=OBLIQUE, series="ct")
    ct_series(folder / "gap", size=SIZE, series="gap", skip=(2,))
    mr_series(folder / "mr", size=SIZE, series="mr")
    return folder


@pytest.fixture(scope="module")
def wanted(scans, tmp_path_factory):
    """What ``medrestore restore`` makes of the CT series."""
    out = tmp_path_factory.mktemp("wanted") / "ct"
    medrestore("restore", scans / "ct", "-o", out)
    return out


@pytest.fixture(scope="module")
def store(scans, tmp_path_factory):
    """The URL of an Orthanc that holds the scans."""
    with orthanc(tmp_path_factory.mktemp("orthanc")) as url:
        for file in sorted(scans.rglob("*.dcm")):
            status, answer = http(f"{url}/instances", file.read_bytes(), "application/dicom")
            assert status == 200, answer
        yield url


@pytest.fixture(scope="module")
def server(store, tmp_path_factory):
    with label_server(tmp_path_factory.mktemp("server"), f"{store}/dicom-web") as started:
        yield started


def uid_of(folder):
    return str(dcmread(next(folder.iterdir())).SeriesInstanceUID)


def series_in(store):
    """Every series of the store with its files, by SeriesInstanceUID, over Orthanc's own interface."""
    found = {}
    for name in json.loads(http(f"{store}/series")[1]):
        answered = json.loads(http(f"{store}/series/{name}")[1])
        files = [http(f"{store}/instances/{one}/file")[1] for one in answered["Instances"]]
        found[answered["MainDicomTags"]["SeriesInstanceUID"]] = [dcmread(io.BytesIO(file)) for file in files]
    return found


def test_a_series_comes_back_as_the_command_restores_it_and_the_store_stays(server, store, scans, wanted, tmp_path):
    before = set(series_in(store))
    result = slicer_load.request_restored(server.url, BUNDLE, str(tmp_path), uid_of(scans / "ct"))
    image, truth = nib.load(result), read_series(wanted)
    assert image.get_data_dtype() == np.float32
    np.testing.assert_allclose(image.affine, truth.affine, atol=1e-4)
    np.testing.assert_allclose(image.get_fdata(), truth.array, rtol=0, atol=1e-4 * np.ptp(truth.array))
    assert np.abs(truth.array - read_series(scans / "ct").array).mean() > 5  # the network does something
    assert set(series_in(store)) == before


def test_a_series_that_cannot_be_used_is_refused_and_nothing_is_stored(server, store, scans):
    before = set(series_in(store))
    for image, status, reason in (
        (uid_of(scans / "gap"), 400, "missing"),
        (uid_of(scans / "mr"), 400, "CT"),
        ("1.2.3", 404, "has no series 1.2.3"),
        ("../../etc", 400, "digits and dots only"),
    ):
        found, answer = server.infer(image, write_back=True)
        assert (found, reason in answer["detail"]) == (status, True), answer
    assert set(series_in(store)) == before


def test_a_batch_on_a_store_is_refused_where_its_results_would_be_lost(server):
    status, answer = http(f"{server.url}/batch/infer/{BUNDLE}?run_sync=true", b"", method="POST")
    assert status == 400
    assert b"set write_back to true" in answer


def test_a_restored_series_goes_back_once_with_right_tags(server, store, scans, wanted):
    before = series_in(store)
    source_uid = uid_of(scans / "ct")
    for _ in range(2):  # the second time adds nothing
        status, done = server.infer(source_uid, write_back=True)
        assert status == 200, done
    after = series_in(store)
    (new_uid,) = set(after) - set(before)
    assert (done["series_uid"], done["instances"]) == (new_uid, 5)
    same = {str(ds.SOPInstanceUID): ds for ds in (dcmread(file) for file in wanted.iterdir())}
    assert {str(ds.SOPInstanceUID) for ds in after[new_uid]} == set(same)  # the command makes the same series
    sources = {str(ds.SOPInstanceUID): ds for ds in before[source_uid]}
    for ds in after[new_uid]:
        twin = same[str(ds.SOPInstanceUID)]
        (origin,) = ds.SourceImageSequence
        source = sources[str(origin.ReferencedSOPInstanceUID)]
        assert ds.PixelData == twin.PixelData
        assert ds.PixelData != source.PixelData
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "SOPClassUID"):
            assert ds[keyword].value == source[keyword].value
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleIntercept"):
            assert ds[keyword].value == source[keyword].value
        assert ds.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert "[MEDRESTORE denoise" in ds.SeriesDescription
        assert ds.ContentQualification == "RESEARCH"
        assert ds.ContributingEquipmentSequence[-1].Manufacturer == "medrestore-monai"


def test_a_store_that_does_not_say_what_it_took_is_searched(store, wanted, monkeypatch):
    before = set(series_in(store))
    client = DICOMwebClient(f"{store}/dicom-web")
    send = client.store_instances
    # what the client makes of an answer whose media type it does not know
    monkeypatch.setattr(client, "store_instances", lambda *given, **named: send(*given, **named) and Dataset())
    stored = store_series(client, wanted)
    assert (stored["series_uid"], stored["instances"]) == (uid_of(wanted), 5)
    assert set(series_in(store)) == before | {uid_of(wanted)}


def test_a_restored_series_is_not_offered_for_restoration(server, store, scans, wanted):
    assert uid_of(wanted) in series_in(store)  # from the test before
    status, answer = http(f"{server.url}/info/")
    assert status == 200
    assert json.loads(answer)["datastore"]["total"] == 3  # the scans


def test_a_batch_restores_what_the_bundle_can_and_reports_what_it_cannot(server, store, scans, wanted):
    before = series_in(store)
    body = json.dumps({"write_back": True, "strength": 0.5}).encode()
    status, answer = http(f"{server.url}/batch/infer/{BUNDLE}?run_sync=true", body)
    assert status == 200, answer
    answered = json.loads(answer)
    assert set(answered) == {uid_of(scans / "ct"), uid_of(scans / "gap")}
    assert "missing" in answered[uid_of(scans / "gap")]["error"]
    after = series_in(store)
    (new_uid,) = set(after) - set(before)
    assert answered[uid_of(scans / "ct")]["params"]["series_uid"] == new_uid
    assert new_uid != uid_of(wanted)


def test_the_server_downloads_nothing_and_names_nobody(server):
    log = server.logs()
    assert "dcmqi" not in log.lower()
    assert "Canary" not in log
    assert "CANARY" not in log
    assert not [path for path in TEMPORARY.glob("medrestore-label-*") if path.stat().st_mtime > START]
