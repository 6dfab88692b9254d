"""The parts of the MONAI Label app that need no server: options, results, DICOMweb, and the script for 3D Slicer.

The app itself runs in an environment of its own; ``scripts/setup/label_tests.sh`` tests it there against real servers.
"""

import json
import tempfile
import threading
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from phantoms import OBLIQUE, ct_series, ct_volume
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from tiny_bundle import BUNDLES, make_tiny_bundle

from medrestore_monai.bundles import find_bundle
from medrestore_monai.dicom import Derivation, read_series, write_derived_series
from medrestore_monai.label_app import slicer_load
from medrestore_monai.label_app.dicomweb import fetch_series, list_series, store_series
from medrestore_monai.label_app.options import offered_settings, read_request, shown_options
from medrestore_monai.label_app.received import is_received
from medrestore_monai.label_app.results import write_result


def offered(name, *devices, write_back=True):
    return offered_settings(find_bundle(BUNDLES / name), devices or ["cuda:0", "cpu"], write_back)


OFFERED = offered("all_in_one_restore_rwkv")


def test_a_bundle_offers_what_it_declares_for_clients():
    bundle = find_bundle(BUNDLES / "ct_denoise_restore_rwkv")
    shown = shown_options(bundle, offered(bundle.name, "cpu", write_back=False))
    assert shown == {
        "device": ["cpu"],
        "precision": ["float32", "bfloat16"],
        "strength": 1.0,
        "limit_change": "auto",
        "self_ensemble": [1, 2, 4, 8],
        "tile": "auto",
        "hu_offset": "auto",
        "slice_axis": "auto",
        "mean_hu": ["check", "correct", "off"],
        "mean_hu_tolerance": 2.0,
        "context": 0,
        "result_dtype": ["float32", "int16"],
        "result_extension": [".nii.gz", ".nii"],
    }
    shown = shown_options(find_bundle(BUNDLES / "all_in_one_restore_rwkv"), OFFERED)
    assert (shown["modality"], shown["mean_hu"][0]) == (["auto", "CT", "MR", "PT"], "correct")
    assert (shown["suv_factor"], shown["write_back"], shown["keep_total_activity"]) == ("auto", False, True)


def test_neighbors_can_be_left_out_by_a_request(tmp_path):
    bundle = find_bundle(make_tiny_bundle(tmp_path, context=2))
    own = offered_settings(bundle, ["cpu"], write_back=False)
    assert (shown_options(bundle, own)["context"], "context_distance" in own) == (2, False)
    assert read_request({"context": "0"}, own).overrides == {"context": 0}
    with pytest.raises(ValueError, match="context"):
        read_request({"context": "$2"}, own)


def test_what_is_not_given_stays_as_the_bundle_has_it():
    request = {"model": "x", "image": "y", "label_tag": "original", "modality": "auto", "tile": ""}
    wanted = read_request(request, OFFERED)
    assert (wanted.device, wanted.dtype, wanted.extension, wanted.write_back) == ("cuda:0", "float32", ".nii.gz", False)
    assert wanted.overrides == {}


def test_values_come_in_with_their_types():
    request = {"device": ["cpu"], "strength": "0.5", "tile": "64", "keep_total_activity": "false", "modality": "PET"}
    wanted = read_request({**request, "suv_factor": 2, "write_back": True, "result_dtype": "int16"}, OFFERED)
    assert (wanted.device, wanted.dtype, wanted.write_back) == ("cpu", "int16", True)
    expected = {"strength": 0.5, "tile": 64, "keep_total_activity": False, "modality": "PT", "suv_factor": 2.0}
    assert wanted.overrides == expected
    assert {name: type(value) for name, value in wanted.overrides.items()} == {
        name: type(value) for name, value in expected.items()
    }


@pytest.mark.parametrize(
    ("value", "expected"), [("auto", {}), ("0", {"hu_offset": 0.0}), (-1024, {"hu_offset": -1024.0})]
)
def test_a_client_may_name_the_offset_to_hu(value, expected):
    assert read_request({"hu_offset": value}, OFFERED).overrides == expected


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("tile", "$__import__('os').system('true')", "whole number"),
        ("tile", 12.5, "whole number"),
        ("hu_offset", "$1", "must be a number"),
        ("strength", "@weights", "must be a number"),
        ("strength", float("nan"), "must be a number"),
        ("strength", True, "must be a number"),
        ("strength", [[1]], "must be a number"),
        ("keep_total_activity", "$True", "true or false"),
        ("mean_hu", "$1", "must be check, correct or off"),
        ("mean_hu", "@weights", "must be check, correct or off"),
        ("device", "$torch.device('cpu')", "must be cuda:0 or cpu"),
        ("device", "cuda:7", "must be cuda:0 or cpu"),
        ("result_dtype", "uint8", "must be float32 or int16"),
        ("result_extension", ".nrrd", "must be .nii.gz or .nii"),
        ("weights", "/tmp/other.pt", "no setting weights"),
        ("backend", "onnx", "no setting backend"),
        ("allow_gaps", True, "no setting allow_gaps"),
        ("series_uid", "1.2", "no setting series_uid"),
        ("overwrite", True, "no setting overwrite"),
        ("output_dir", "/tmp", "no setting output_dir"),
        ("network_def::dim", 8, "no setting network_def::dim"),
        ("stregth", 0.5, "no setting stregth. Did you mean strength?"),
    ],
)
def test_what_a_client_may_not_say(name, value, reason):
    with pytest.raises(ValueError, match=reason):
        read_request({"model": "x", name: value}, OFFERED)


def test_write_back_needs_a_store():
    with pytest.raises(ValueError, match="needs a DICOMweb store"):
        read_request({"write_back": True}, offered("all_in_one_restore_rwkv", write_back=False))


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The temporary folder of a server, reached over a link as on macOS."""
    (tmp_path / "private").mkdir()
    (tmp_path / "tmp").symlink_to(tmp_path / "private")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


@pytest.mark.parametrize("ending", ["", ".nii.gz", ".dcm", ".scan 2 (1).nii.gz"])
def test_a_file_that_monai_label_has_just_written_is_received(temporary, ending):
    with tempfile.NamedTemporaryFile(suffix=ending) as file:  # as MONAI Label names it
        assert is_received(file.name)
    assert not is_received(file.name)  # gone


def test_what_else_is_in_the_temporary_folder_is_not_received(temporary, tmp_path, monkeypatch):
    ct_series(temporary / "series", slices=1)
    (temporary / "tmpabcd0123").mkdir()  # as tempfile.mkdtemp names it
    for name in ("ct.nii.gz", "tmpABCD0123.nii.gz", "tmpabcd01234.nii.gz", "series/tmpabcd0123.nii.gz"):
        (temporary / name).touch()
    (tmp_path / "tmpabcd0123.nii.gz").touch()  # beside it
    (temporary / "tmpabcd0123.nii").symlink_to(tmp_path / "tmpabcd0123.nii.gz")
    paths = [*temporary.rglob("*"), temporary, tmp_path / "tmpabcd0123.nii.gz", temporary / "../tmpabcd0123.nii.gz"]
    assert [str(path) for path in paths if is_received(str(path))] == []
    assert temporary / "series" / "tmpabcd0123.nii.gz" in paths  # all were asked about
    assert not is_received("")
    assert not is_received("tmpabcd0123\0.nii.gz")
    with tempfile.NamedTemporaryFile() as file:
        monkeypatch.setattr("os.geteuid", lambda: 1 + Path(file.name).stat().st_uid)
        assert not is_received(file.name)  # of another user


def test_the_image_of_a_session_is_received(temporary, tmp_path):
    ct_series(tmp_path / "sessions" / "1234" / "tmpabcd0123", slices=1)
    folder = tmp_path / "sessions"
    for image in (folder / "1234" / "tmpabcd0123", *folder.rglob("*.dcm")):
        assert is_received(str(image), str(folder))
        assert not is_received(str(image))
    assert not is_received(str(folder), str(folder))
    assert not is_received(str(folder / "1234/../../private"), str(folder))


def derived(tmp_path, volume=None):
    """A derived series of 5 slices, oblique."""
    ct_series(tmp_path / "ct", orientation=OBLIQUE, size=(17, 13))
    source = read_series(tmp_path / "ct")
    image = source.array if volume is None else volume
    write_derived_series(source, image, tmp_path / "derived", Derivation("denoise"))
    return tmp_path / "derived", source


@pytest.mark.parametrize(("dtype", "extension"), [("float32", ".nii.gz"), ("int16", ".nii")])
def test_a_series_becomes_a_volume_in_its_place(tmp_path, dtype, extension):
    folder, source = derived(tmp_path)
    result = nib.load(write_result(folder, tmp_path, dtype, extension))
    assert result.get_filename().endswith(f"restored{extension}")
    assert result.get_data_dtype() == np.dtype(dtype)
    np.testing.assert_array_equal(np.asanyarray(result.dataobj), source.array)
    np.testing.assert_allclose(result.affine, source.affine, atol=1e-5)
    assert (int(result.header["sform_code"]), int(result.header["qform_code"])) == (1, 1)


def test_a_file_keeps_its_header(tmp_path):
    affine = np.array([[-0.7, 0.1, 0, 90], [0.1, -0.7, 0, 80], [0, 0, 2.5, -40], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(ct_volume(3, (9, 7)).astype(np.int16), affine)
    image.header.set_sform(affine, code="mni")
    nib.save(image, tmp_path / "in.nii.gz")
    result = nib.load(write_result(tmp_path / "in.nii.gz", tmp_path))
    np.testing.assert_allclose(result.affine, affine, atol=1e-6)
    assert int(result.header["sform_code"]) == 4
    assert result.get_data_dtype() == np.float32
    np.testing.assert_array_equal(result.get_fdata(), image.get_fdata())


def test_numbers_that_are_not_whole_or_do_not_fit_are_scaled_into_16_bits(tmp_path):
    values = np.linspace(-3.7, 90_000.2, 5 * 7 * 3).reshape(5, 7, 3).astype(np.float32)
    np.save(tmp_path / "in.npy", values)
    result = nib.load(write_result(tmp_path / "in.npy", tmp_path, "int16"))
    assert result.get_data_dtype() == np.int16
    np.testing.assert_allclose(result.get_fdata(), values, atol=90_004 / 65_535)  # of the 16-bit steps, at most one


def test_voxels_without_a_value_do_not_become_zeros(tmp_path):
    values = ct_volume(3, (9, 7)).astype(np.float32)
    values[:2] = np.nan
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "in.nii.gz")
    with pytest.raises(ValueError, match=r"int16 cannot hold voxels without a value .* give result_dtype=float32"):
        write_result(tmp_path / "in.nii.gz", tmp_path, "int16")
    np.testing.assert_array_equal(nib.load(write_result(tmp_path / "in.nii.gz", tmp_path)).get_fdata(), values)


def test_a_picture_stays_a_picture(tmp_path):
    Image.fromarray(np.arange(63, dtype=np.uint8).reshape(7, 9)).save(tmp_path / "in.png")
    assert write_result(tmp_path / "in.png", tmp_path / "out") == tmp_path / "in.png"


class Store:
    """A DICOMweb client that keeps data sets in memory."""

    def __init__(self, files=(), refuse=0, lose=0, silent=False, page=None, pages=True):
        self.held = [dcmread(file) for file in files]
        self.refuse, self.lose, self.silent, self.page, self.pages = refuse, lose, silent, page, pages
        self.asked, self.groups = [], []

    def search_for_series(self, search_filters, fields=(), offset=0, get_remaining=False):
        self.asked.append(search_filters)
        assert self.pages or not get_remaining, "the client would ask without end"
        found = {}
        for ds in self.held:
            if all(str(ds.get(name)) == value for name, value in search_filters.items()):
                found.setdefault(str(ds.SeriesInstanceUID), []).append(ds)
        tags = {"0020000D": "StudyInstanceUID", "0020000E": "SeriesInstanceUID", "0008103E": "SeriesDescription"}
        answer = [
            {tag: {"Value": [str(group[0].get(name, ""))]} for tag, name in tags.items()}
            | {"00201209": {"Value": [len(group)]}}
            for group in found.values()
        ]
        return answer[offset if self.pages else 0 :][: self.page]

    def search_for_instances(self, study_instance_uid, series_instance_uid, offset=0):
        same = [ds for ds in self.held if ds.SeriesInstanceUID == series_instance_uid]
        assert {str(ds.StudyInstanceUID) for ds in same} <= {study_instance_uid}
        found = [{"00080018": {"Value": [str(ds.SOPInstanceUID)]}} for ds in same]
        return found[offset:][: self.page]

    def iter_series(self, study, series):
        same = [ds for ds in self.held if ds.SeriesInstanceUID == series and ds.StudyInstanceUID == study]
        return iter(same[self.lose :])

    def store_instances(self, datasets, study_instance_uid):
        self.groups.append(len(datasets))
        answer, taken = Dataset(), datasets[self.refuse :]
        self.held += taken
        if self.silent == "untyped":  # what the client makes of an answer without a media type
            raise KeyError("content-type")
        if self.silent:  # and of one that it cannot read
            return answer
        answer.ReferencedSOPSequence = [self._item(ds) for ds in taken]
        failed = [self._item(ds) for ds in datasets[: self.refuse]]
        for item in failed:
            item.FailureReason = 0xA700
        answer.FailedSOPSequence = failed
        return answer

    @staticmethod
    def _item(ds):
        item = Dataset()
        item.ReferencedSOPInstanceUID = ds.SOPInstanceUID
        return item


@pytest.mark.slow
def test_a_series_comes_from_the_store_whole(tmp_path):
    files = ct_series(tmp_path / "ct", series="a")
    others = ct_series(tmp_path / "other", series="b")
    uid = str(dcmread(files[0]).SeriesInstanceUID)
    (tmp_path / "got").mkdir()
    assert fetch_series(Store([*files, *others]), uid, tmp_path / "got") == 5
    np.testing.assert_array_equal(read_series(tmp_path / "got").array, read_series(tmp_path / "ct").array)
    with pytest.raises(OSError, match="sent 3 of 5 instances"):
        fetch_series(Store(files, lose=2), uid, tmp_path / "got")
    with pytest.raises(FileNotFoundError, match=r"has no series 1\.2\.3"):
        fetch_series(Store(files), "1.2.3", tmp_path / "got")
    with pytest.raises(ValueError, match="digits and dots only"):
        fetch_series(Store(files), "../../etc", tmp_path / "got")


def test_a_part_that_is_no_dicom_is_an_error_of_the_store(tmp_path, monkeypatch):
    store = Store(ct_series(tmp_path / "ct"))
    page = b"<html>backend unavailable</html>"
    monkeypatch.setattr(store, "iter_series", lambda study, series: (dcmread(BytesIO(part)) for part in [page]))
    uid = str(store.held[0].SeriesInstanceUID)
    (tmp_path / "got").mkdir()
    with pytest.raises(OSError, match=rf"sent a part of series {uid} that is no DICOM instance \(InvalidDicomError\)"):
        fetch_series(store, uid, tmp_path / "got")


def test_a_derived_series_goes_to_the_store_and_is_not_listed(tmp_path):
    folder, source = derived(tmp_path)
    store = Store((tmp_path / "ct").iterdir())
    stored = store_series(store, folder)
    new = read_series(folder)
    assert stored == {
        "study_uid": str(source.datasets[0].StudyInstanceUID),
        "series_uid": new.uid,
        "instances": 5,
    }
    assert [str(ds.SeriesInstanceUID) for ds in store.held] == [source.uid] * 5 + [new.uid] * 5
    assert list_series(store, ["CT", "MR"], {"PatientID": "CANARY-ID"}) == [source.uid]
    # the second page of the CT series is empty
    assert store.asked == [{"PatientID": "CANARY-ID", "Modality": name} for name in ("CT", "CT", "MR")]


@pytest.mark.parametrize("pages", [True, False])
def test_a_listing_ends_with_a_page_that_brings_nothing_new(tmp_path, pages):
    files = [file for name in "abc" for file in ct_series(tmp_path / name, slices=2, series=name)]
    uids = list(dict.fromkeys(str(dcmread(file).SeriesInstanceUID) for file in files))
    assert list_series(Store(files, page=2, pages=pages), ["CT"]) == (uids if pages else uids[:2])


def test_a_store_that_refuses_is_an_error(tmp_path):
    folder, _ = derived(tmp_path)
    with pytest.raises(OSError, match=r"took 3 instances and refused 2 \(failure reason 42752\)"):
        store_series(Store(refuse=2), folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="nothing to store"):
        store_series(Store(), tmp_path / "empty")


def test_long_series_are_stored_in_groups(tmp_path, monkeypatch):
    folder, _ = derived(tmp_path)
    monkeypatch.setattr("medrestore_monai.label_app.dicomweb._TOGETHER", 2)
    store = Store()
    assert store_series(store, folder)["instances"] == 5
    assert store.groups == [2, 2, 1]


@pytest.mark.parametrize("silent", [True, "untyped"])
def test_a_store_that_does_not_say_what_it_took_is_searched(tmp_path, monkeypatch, silent):
    folder, _ = derived(tmp_path)
    monkeypatch.setattr("medrestore_monai.label_app.dicomweb._TOGETHER", 3)
    store = Store(silent=silent, page=2)  # and lists two instances at a time
    assert store_series(store, folder)["instances"] == 5
    assert store.groups == [3, 2]
    with pytest.raises(OSError, match=r"did not say what it took of 3 instances, and does not list 1 of them"):
        store_series(Store(silent=silent, refuse=1), folder)


@pytest.fixture
def server():
    """A server that keeps what it is asked, and answers with what a test gives it."""
    seen = SimpleNamespace(status=200, name="restored-x.nii.gz", answer=b"volume", asked=[])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(b"")

        def do_POST(self):
            self.reply(self.rfile.read(int(self.headers["Content-Length"])))

        def reply(self, body):
            seen.asked.append((self.path, self.headers.get("Content-Type", ""), body))
            self.send_response(seen.status)
            self.send_header("Content-Disposition", f'attachment; filename="{seen.name}"')
            self.send_header("Content-Length", str(len(seen.answer)))
            self.end_headers()
            self.wfile.write(seen.answer)

        def log_message(self, *words):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    seen.url = f"http://127.0.0.1:{http.server_port}"
    yield seen
    http.shutdown()
    thread.join()
    http.server_close()


def parts(kind, body):
    """Take a form apart with Python's own parser of MIME messages."""
    message = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
    return {part.get_param("name", header="Content-Disposition"): part for part in message.get_payload()}


def test_the_slicer_script_sends_a_file_under_no_name(tmp_path, server):
    content = bytes(range(256)) * 3 + b"\r\n--x"
    (tmp_path / "Canary^Name.nii.gz").write_bytes(content)
    path = slicer_load.request_restored(
        server.url + "/", "my bundle", str(tmp_path), file=str(tmp_path / "Canary^Name.nii.gz"), strength=0.5
    )
    assert Path(path).read_bytes() == b"volume"
    assert path.endswith(".nii.gz")
    ((asked, kind, body),) = server.asked
    assert asked == "/infer/my%20bundle?image=&output=image"
    assert b"Canary" not in body
    form = parts(kind, body)
    assert json.loads(form["params"].get_payload()) == {"strength": 0.5}
    assert form["file"].get_filename() == "image.nii.gz"
    assert form["file"].get_payload(decode=True) == content


def test_the_slicer_script_names_an_image_and_says_why_it_failed(tmp_path, server):
    server.name = "restored-x.png"
    assert slicer_load.request_restored(server.url, "b", str(tmp_path), "1.2.3").endswith(".png")
    assert server.asked[0][0] == "/infer/b?image=1.2.3&output=image"
    server.status, server.answer = 400, b'{"detail": "strength must be a number."}'
    with pytest.raises(RuntimeError, match=r"refused \(400\): strength must be a number"):
        slicer_load.request_restored(server.url, "b", str(tmp_path), "1.2.3")
    server.answer = b"gateway down"
    with pytest.raises(RuntimeError, match="gateway down"):
        slicer_load.request_restored(server.url, "b", str(tmp_path), "1.2.3")
    with pytest.raises(RuntimeError, match="does not answer"):
        slicer_load.request_restored("http://127.0.0.1:9", "b", str(tmp_path), "1.2.3")


def test_the_slicer_script_lists_our_models_only(server):
    server.answer = json.dumps({"models": {"a": {"type": "others"}, "b": {"type": "segmentation"}}}).encode()
    assert slicer_load.list_models(server.url) == {"a": {"type": "others"}}


def test_slicer_gets_a_scalar_volume(tmp_path, server, monkeypatch):
    """With a stand-in for Slicer's Python module, which cannot be had here."""
    loaded = []

    def load(path, properties):
        loaded.append((Path(path).read_bytes(), properties))
        return "node"

    util = SimpleNamespace(
        saveNode=lambda node, path: Path(path).write_bytes(b"scene"),
        loadVolume=load,
        setSliceViewerLayers=lambda background: loaded.append(background),
    )
    monkeypatch.setitem(__import__("sys").modules, "slicer", SimpleNamespace(util=util))
    node = SimpleNamespace(GetName=lambda: "CT")
    assert slicer_load.restore_in_slicer(server.url, "b", node=node, strength=1) == "node"
    properties = {"name": "CT restored (b)", "labelmap": False, "singleFile": True}
    assert loaded == [(b"volume", properties), "node"]
    form = parts(*server.asked[0][1:])
    assert form["file"].get_payload(decode=True) == b"scene"
