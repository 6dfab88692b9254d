"""The command line: quick help; for mistakes one sentence, the right exit code, and nothing written."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from phantoms import ct_series, ct_volume, mr_series, pet_series
from PIL import Image
from tiny_bundle import NAME, edit_json, make_tiny_bundle, write_tiny_weights
from typer.testing import CliRunner

from medrestore_monai.cli import app

SIZE = (24, 16)
COMMANDS = [
    *(["restore"], ["adapt"], ["audit"], ["degrade"], ["evaluate"], ["export"], ["demo"], ["doctor"]),
    *(["bundles", name] for name in ("list", "show", "check", "package")),
    *(["bundles", "weights", name] for name in ("get", "verify")),
]


@pytest.fixture(autouse=True)
def _found(bundle, monkeypatch):
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(bundle.parent))


def run(*args):
    if args[0] == "restore" and "--bundle" not in args:
        args = (*args, "--bundle", NAME)
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def tree(folder):
    """Everything below a folder, with the bytes of files."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def assert_refused(folder, code, message, *args):
    """The command ends with ``code`` and one sentence that has ``message`` in it, and writes nothing."""
    before = tree(folder)
    result = run(*args)
    assert result.exit_code == code, result.output
    passing = ("ing slices", "Memory: about")
    lines = [line for line in result.stderr.splitlines() if line.strip() and not any(one in line for one in passing)]
    assert len(lines) == 1, result.stderr
    assert re.fullmatch(rf"Error: .*{message}.*", lines[0])
    assert result.stdout == ""
    assert tree(folder) == before


@pytest.mark.slow
def test_help_and_bundles_are_there_without_torch_or_monai():
    script = f"""
import sys
import time
from typer.testing import CliRunner
from medrestore_monai.cli import app
for command in {[[], *COMMANDS]}:
    assert CliRunner().invoke(app, [*command, "--help"]).exit_code == 0, command
for command in (["list"], ["list", "--json"], ["show", "{NAME}"], ["show", "{NAME}", "--json"]):
    assert CliRunner().invoke(app, ["bundles", *command]).exit_code == 0, command
heavy = [name for name in ("torch", "monai", "numpy", "pydicom", "nibabel", "ignite", "scipy") if name in sys.modules]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(command):
    result = run(*command, "-h")
    assert result.exit_code == 0
    assert re.search(rf"Examples?:\s+medrestore {' '.join(command)}", result.stdout)


def test_help_says_it_is_for_research():
    assert "not a medical device" in " ".join(run("--help").stdout.replace("\n", " ").split())


def test_restore_says_what_went_where(tmp_path):
    ct_series(tmp_path / "[ct]", slices=2, size=SIZE)  # square brackets are not markup
    result = run("restore", tmp_path / "[ct]", "-o", tmp_path / "new" / "out", "--device", "cpu")
    assert result.exit_code == 0
    assert f"{tmp_path}/[ct] -> {tmp_path}/new/out" in result.stdout
    assert f"Restored 1 image(s) with {NAME}. For research, not a medical device." in result.stdout
    assert len(list((tmp_path / "new" / "out").iterdir())) == 2


def test_overwrite_replaces_a_result(tmp_path):
    ct_series(tmp_path / "ct", slices=2, size=SIZE)
    for options in ([], ["--overwrite", "--strength", "0"]):
        assert run("restore", tmp_path / "ct", "-o", tmp_path / "out", *options).exit_code == 0
    stored = [pydicom.dcmread(file).PixelData for file in sorted((tmp_path / "out").iterdir())]
    source = {pydicom.dcmread(file).PixelData for file in (tmp_path / "ct").iterdir()}
    assert set(stored) == source


def test_of_several_series_in_a_folder_all_that_fit_are_restored_or_the_one_that_is_named(tmp_path):
    files = ct_series(tmp_path / "study", slices=2, size=SIZE, series="a")
    pet_series(tmp_path / "study", slices=2, size=SIZE, series="b")
    result = run("restore", tmp_path / "study", "-o", tmp_path / "all")
    assert result.exit_code == 0
    assert "2 studies with ct_denoise_restore_rwkv: 1 restored, 0 failed, 1 passed over." in result.stdout
    assert "modality PT, where CT is restored" in result.stdout
    uid = pydicom.dcmread(files[0]).SeriesInstanceUID
    assert run("restore", tmp_path / "study", "-o", tmp_path / "out", "--series", uid).exit_code == 0
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_of_many_studies_those_in_folders_with_the_name_of_a_file_are_restored(tmp_path, forbid):
    for name in ("T1.nii", "1.2.3.zip", "closed.nii"):
        ct_series(tmp_path / "in" / name, slices=2, size=SIZE, series=name)
    forbid("closed.nii")
    result = run("restore", tmp_path / "in", "-o", tmp_path / "out")
    studies = json.loads((tmp_path / "out" / "manifest.json").read_text())["studies"]
    outcomes = {study["name"]: study["outcome"] for study in studies}
    assert outcomes == {"1.2.3.zip": "restored", "T1.nii": "restored", "closed.nii": "failed"}
    assert result.exit_code == 3
    for name in ("T1.nii", "1.2.3.zip"):
        assert len(list((tmp_path / "out" / name).iterdir())) == 2


def test_settings_reach_the_pipeline_and_the_header(tmp_path):
    ct_series(tmp_path / "ct", slices=2, size=SIZE)
    for number, value in enumerate(("check", "correct", "off")):
        options = ["--set", f"mean_hu={value}", "--set", "mean_hu_tolerance=0.5"]
        result = run("restore", tmp_path / "ct", "-o", tmp_path / f"out{number}", *options)
        assert result.exit_code == 0
        assert ("moved by more than 0.5 HU in 2 of 2" in result.stderr) == (value != "off")
        header = pydicom.dcmread(next((tmp_path / f"out{number}").iterdir()))
        assert f'"mean_hu": "{value}"' in header.DerivationDescription


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("mean_hu", "a setting is NAME=VALUE, got 'mean_hu'"),
        ("mean_hue=off", r"no setting mean_hue\. Did you mean mean_hu\? There are .*mean_hu, mean_hu_tolerance"),
        ("mean_hu=maybe", "mean_hu must be check, correct or off, got 'maybe'"),
        ("mean_hu_tolerance=small", "mean_hu_tolerance must be a number of at least 0, got 'small'"),
        ("amp=maybe", "amp must be true or false, got 'maybe'"),
        ("strength=0.5", "strength is not set by --set but by --strength"),
        ("output_dir=/tmp", "output_dir is not set by --set but by --output"),
        ("overwrite=true", "overwrite is not set by --set but by --overwrite"),
        ("progress=true", "there is no setting progress"),
        ("slab=$print(1)", "slab must be a whole number of at least 0"),
        ("slab=1.5", "slab must be a whole number of at least 0, got 1.5"),
        ("mean_hu_tolerance=NaN", "mean_hu_tolerance must be a number of at least 0, got nan"),
        ("mean_hu=1", "mean_hu must be check, correct or off, got 1"),
        ("slice_batch_size=0", "slice_batch_size must be a whole number of at least 1"),
        ("run=1", "there is no setting run"),
        ("evaluator=1", "there is no setting evaluator"),
        ("inferer#_target_=builtins.print", "there is no setting inferer#_target_"),
        ("network_def#dim=abc", "there is no network with these settings"),
        ("load#modality=MR", "there is no setting load#modality"),
        ("network_def#nothing=1", "there is no network with these settings"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, setting, message):
    ct_series(tmp_path / "ct", slices=2, size=SIZE)
    assert_refused(tmp_path, 2, message, "restore", tmp_path / "ct", "-o", tmp_path / "out", "--set", setting)


@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=str)
def test_an_output_below_a_file_is_refused_before_the_work(tmp_path, options):
    ct_series(tmp_path / "ct", slices=2, size=SIZE)
    (tmp_path / "a.txt").write_text("a file")
    message = r"a\.txt/deep/out cannot be written: .*a\.txt is a file\.$"
    assert_refused(
        tmp_path, 2, message, "restore", tmp_path / "ct", "-o", tmp_path / "a.txt" / "deep" / "out", *options
    )


def test_torchrun_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert_refused(tmp_path, 2, "torchrun is for training only.*--workers N", "restore", good(tmp_path), "-o", "out")


def test_a_series_with_a_gap_can_be_restored_slice_by_slice(tmp_path):
    ct_series(tmp_path / "ct", slices=6, size=SIZE, skip=[2])
    assert run("restore", tmp_path / "ct", "-o", tmp_path / "out", "--allow-gaps").exit_code == 0
    assert len(list((tmp_path / "out").iterdir())) == 5


@pytest.mark.parametrize(
    ("knobs", "note"),
    [
        ({"duplicate": 2}, r"passed over: a copy of another slice"),
        ({"positions": [0, 2.5, 4.5, 7]}, "slices are 2.00 to 2.50 mm apart"),
        ({"tilt": 12}, "tilted by 12.0 degrees"),
    ],
)
def test_odd_series_are_restored_with_a_note(tmp_path, knobs, note):
    ct_series(tmp_path / "ct", slices=4, size=SIZE, **knobs)
    result = run("restore", tmp_path / "ct", "-o", tmp_path / "out", "--strength", "0")
    assert (result.exit_code, len(list((tmp_path / "out").iterdir()))) == (0, 4)
    assert re.search(note, " ".join(result.stderr.split()))


def test_what_is_clipped_is_said(tmp_path):
    Image.fromarray(100 * np.eye(*SIZE[::-1], dtype=np.uint16)).save(tmp_path / "a.png")
    weights = write_tiny_weights(tmp_path / "own.pt")
    options = ["--weights", weights, "--hu-offset", "0"]
    result = run("restore", tmp_path / "a.png", "-o", tmp_path / "out.png", *options)
    assert result.exit_code == 0
    assert re.search(r"Note: .*values lie outside the range of uint16 and were clipped", result.stderr)
    assert "no value below 0" not in result.stderr


@pytest.mark.parametrize("place", ["bundles", "."])
def test_a_bundle_beside_the_scan_does_not_run_in_place_of_the_installed_one(tmp_path, monkeypatch, place):
    planted = make_tiny_bundle(tmp_path / "work" / place)
    code = "$open('canary', 'w').close() or 1"
    edit_json(planted / "configs" / "inference.json", lambda config: config.update(self_ensemble=code))
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(make_tiny_bundle(tmp_path / "installed").parent))
    monkeypatch.chdir(tmp_path / "work")
    np.save("a.npy", ct_volume(1, SIZE)[..., 0])
    result = run("restore", "a.npy", "-o", "out.npy")
    assert (result.exit_code, Path("canary").exists()) == (0, False)
    result = run("restore", "a.npy", "-o", "named.npy", "--bundle", planted)
    assert (result.exit_code, Path("canary").exists()) == (3, False)
    assert "configs/inference.json:self_ensemble: code: $open" in result.stderr
    result = run("restore", "a.npy", "-o", "named.npy", "--bundle", planted, "--trust-bundle")
    assert (result.exit_code, Path("canary").exists()) == (0, True)


def test_the_name_of_weights_is_never_run_as_code(tmp_path, monkeypatch):
    Image.fromarray(np.zeros(SIZE[::-1], np.uint8)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    result = run("restore", "a.png", "-o", "out.png", "--weights", "$open('made', 'w').close()")
    assert result.exit_code == 2
    assert "is missing" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_weights_and_bundle_may_lie_in_folders_of_any_name(tmp_path):
    root = make_tiny_bundle(tmp_path / "run#1")
    weights = write_tiny_weights(tmp_path / "run#2" / "@own.pt", seed=1)
    (tmp_path / "in#3").mkdir()
    for name in "ab":
        np.save(tmp_path / "in#3" / f"{name}.npy", ct_volume(1, SIZE)[..., 0])
    args = ["--bundle", root, "--weights", weights]
    for source, output in (("in#3", "out#4"), ("in#3/a.npy", "one#5")):
        result = run("restore", tmp_path / source, "-o", tmp_path / output, *args)
        assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.load(tmp_path / "out#4" / "a.npy"), np.load(tmp_path / "one#5" / "a.npy"))
    manifest = json.loads((tmp_path / "out#4" / "manifest.json").read_text())
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert [study["settings"]["weights_sha256"] for study in manifest["studies"]] == [digest] * 2


def test_a_folder_does_not_become_a_file(tmp_path):
    message = "the output of .*ct is a folder, but y.nii names a file"
    assert_refused(tmp_path, 2, message, "restore", good(tmp_path), "-o", tmp_path / "y.nii")


def test_doctor_and_bundles_answer(bundle):
    report = run("doctor").stdout
    for word in ("torch", "monai", "pydicom", "CUDA", "Bi-WKV", "JPEG 2000", NAME):
        assert word in report
    assert NAME in run("bundles", "list").stdout
    shown = run("bundles", "show", NAME).stdout
    assert "not a medical device" in shown
    assert "SHA-256" in shown
    assert str(bundle) in shown


def no_input(folder):
    return 2, "there is no file or folder .*nothing", [folder / "nothing"]


def output_exists(folder):
    (folder / "out").mkdir()
    return 2, "out exists; name another output, or replace it with --overwrite", [good(folder)]


def unknown_bundle(folder):
    return 2, "no bundle 'nothing'; found here: .*ct_denoise", [good(folder), "--bundle", "nothing"]


def no_such_device(folder):
    return 2, "there is no device cuda:99 here", [good(folder), "--device", "cuda:99"]


def unknown_device(folder):
    return 2, "device must be auto, cpu, cuda, cuda:N or mps, got 'abacus'", [good(folder), "--device", "abacus"]


def bad_tile(folder):
    return 2, "tile must be .* multiples of .* got 100", [good(folder), "--tile", "100"]


def suv_without_pet(folder):
    return (
        2,
        "--suv-factor is for PT, not for CT",
        [
            good(folder),
            "--suv-factor",
            "0.5",
        ],
    )


def bad_uid(folder):
    return 2, "digits and dots only", [good(folder), "--series", "$exit()"]


def unknown_uid(folder):
    return 2, r"holds no series 1\.2\.3, but: CT, 3 files", [good(folder), "--series", "1.2.3"]


def own_weights_missing(folder):
    return 2, "weight file .*w.pt is missing", [good(folder), "--weights", folder / "w.pt"]


def own_weights_wrong(folder):
    (folder / "w.pt").write_bytes(b"nothing")
    return (
        3,
        "w.pt is no file of weights: PyTorch reads no plain state dict",
        [good(folder), "--weights", folder / "w.pt"],
    )


def weights_of_another_network(folder):
    torch.save({"weight": torch.zeros(2)}, folder / "w.pt")
    return 3, "w.pt does not hold the weights of RestoreRWKV", [good(folder), "--weights", folder / "w.pt"]


def empty_folder(folder):
    (folder / "empty").mkdir()
    return 3, "empty holds no image", [folder / "empty"]


def folder_without_images(folder):
    (folder / "docs").mkdir()
    (folder / "docs" / "a.txt").write_text("text")
    return 3, "docs holds no image: no DICOM series, NIfTI, MGZ, NRRD, MHA, PNG, JPEG", [folder / "docs"]


def no_image_file(folder):
    (folder / "a.txt").write_text("text")
    return 3, "a.txt is not a DICOM file", [folder / "a.txt"]


def other_format(folder):
    (folder / "a.bmp").write_bytes(b"text")
    return 3, "a.bmp is not a DICOM file: save it as PNG or TIFF", [folder / "a.bmp"]


def truncated_nifti(folder):
    nib.save(nib.Nifti1Image(ct_volume(3, SIZE).astype(np.int16), np.eye(4)), folder / "whole.nii.gz")
    (folder / "a.nii.gz").write_bytes((folder / "whole.nii.gz").read_bytes()[:-200])
    return 3, "a.nii.gz cannot be read, it is damaged, cut short", [folder / "a.nii.gz"]


def damaged_zip(folder):
    (folder / "a.zip").write_bytes(b"PK and nothing else")
    return 3, "a.zip cannot be unpacked", [folder / "a.zip"]


def zip_without_images(folder):
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    return 3, "no DICOM image in a.zip", [folder / "a.zip"]


def truncated_dicom(folder):
    file = ct_series(folder / "ct", slices=3, size=SIZE)[1]
    file.write_bytes(file.read_bytes()[:-100])
    return 3, f"{file.name} is cut short: 668 bytes of pixel data where 768", [folder / "ct"]


def missing_slice(folder):
    ct_series(folder / "ct", slices=6, size=SIZE, skip=[2])
    return 3, r"1 slice\(s\) missing between", [folder / "ct"]


def wrong_modality(folder):
    mr_series(folder / "mr", slices=3, size=SIZE)
    return 3, "mr holds a series of modality MR, where CT is expected", [folder / "mr"]


def color_picture(folder):
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(folder / "a.png")
    return 3, "a.png is a color picture, where CT is expected", [folder / "a.png"]


def nan(folder):
    volume = ct_volume(3, SIZE)
    volume[1, 2, 0] = np.nan
    volume[1, 2, 1] = np.inf
    np.save(folder / "a.npy", volume)
    return 3, "a.npy has 1 infinite or NaN values", [folder / "a.npy"]


def other_kind(folder):
    np.save(folder / "a.npy", ct_volume(3, SIZE))
    return 2, "b.png is of another kind than a.npy", [folder / "a.npy", "-o", folder / "b.png"]


def output_in_source(folder):
    return 2, "may not lie in one another", [good(folder), "-o", folder / "ct" / "out"]


def good(folder):
    ct_series(folder / "ct", slices=3, size=SIZE)
    return folder / "ct"


BAD = [
    *(no_input, output_exists, unknown_bundle, no_such_device, unknown_device, bad_tile, bad_uid, unknown_uid),
    suv_without_pet,
    *(own_weights_missing, own_weights_wrong, empty_folder, folder_without_images, no_image_file, truncated_nifti),
    *(damaged_zip, zip_without_images, truncated_dicom, missing_slice),
    *(wrong_modality, color_picture, nan, other_kind, output_in_source),
    *(weights_of_another_network, other_format),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.__name__)
def test_bad_input_gets_one_sentence_and_writes_nothing(tmp_path, case):
    code, message, args = case(tmp_path)
    output = [] if "-o" in args else ["-o", tmp_path / "out"]
    assert_refused(tmp_path, code, message, "restore", *args, *output)


DEGRADE = [no_input, output_exists, empty_folder, truncated_dicom, missing_slice, wrong_modality, color_picture, nan]


@pytest.mark.parametrize("case", DEGRADE, ids=lambda case: case.__name__)
def test_degrade_refuses_the_same(tmp_path, case):
    code, message, args = case(tmp_path)
    assert_refused(tmp_path, code, message, "degrade", *args, "-o", tmp_path / "out")


def test_self_ensemble_gives_a_turned_picture_the_turned_result(tmp_path):
    values = ct_volume(2, SIZE)
    results = {}
    for name, turns in (("image", 0), ("turned", 2)):
        image = nib.Nifti1Image(np.ascontiguousarray(np.rot90(values, turns)), np.eye(4))
        nib.save(image, tmp_path / f"{name}.nii.gz")
        for count in (1, 2):
            output = tmp_path / f"{name}{count}.nii.gz"
            arguments = ["restore", tmp_path / f"{name}.nii.gz", "-o", output, "--set", f"self_ensemble={count}"]
            assert run(*arguments).exit_code == 0
            results[count, name] = np.rot90(nib.load(output).get_fdata(), turns)
    difference = {count: np.abs(results[count, "image"] - results[count, "turned"]).max() for count in (1, 2)}
    assert difference[2] < 0.01 < 0.1 < difference[1]


def test_degrade_refuses_an_unknown_task(tmp_path):
    args = ["degrade", good(tmp_path), "-o", tmp_path / "out", "--task", "mri"]
    assert_refused(tmp_path, 2, "task must be one of ct_low_dose, .*, got 'mri'", *args)


@pytest.mark.parametrize(
    "args",
    [
        ["--strength", "1.5"],
        ["--strength", "much"],
        ["--set", "self_ensemble=3"],
        ["--tile", "1.5"],
        ["--nothing"],
        ["another argument"],
    ],
    ids=" ".join,
)
def test_options_that_cannot_be_parsed_are_usage_errors(tmp_path, args):
    source = good(tmp_path)
    before = tree(tmp_path)
    result = run("restore", source, "-o", tmp_path / "out", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("command", ["restore", "degrade"])
@pytest.mark.parametrize("kind", ["dicom", "npy"])
@pytest.mark.parametrize("problem", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_is_named_and_nothing_stays(tmp_path, monkeypatch, command, kind, problem):
    ct_series(tmp_path / "dicom", slices=2, size=96)
    np.save(tmp_path / "npy.npy", ct_volume(2, 96))
    source = tmp_path / {"dicom": "dicom", "npy": "npy.npy"}[kind]

    def fail(*args, **kwargs):
        raise OSError(problem, os.strerror(problem))

    monkeypatch.setattr(os, "fsync" if problem == errno.ENOSPC else "mkdir", fail)
    message = f"{os.strerror(problem)}: {tmp_path}/new/out"
    assert_refused(tmp_path, 3, message, command, source, "-o", tmp_path / "new" / "out")


@pytest.mark.parametrize("command", ["restore", "restore --dry-run", "degrade", "evaluate"])
@pytest.mark.parametrize("many", [False, True])
def test_an_output_that_may_not_be_written_is_refused_before_the_work(tmp_path, monkeypatch, command, many):
    ct_series(tmp_path / "ct" / "a", slices=2, size=SIZE)
    if many:
        ct_series(tmp_path / "ct" / "b", slices=2, size=SIZE, series="b")
    (tmp_path / "locked").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and access(path, mode))
    monkeypatch.setattr("medrestore_monai.inferers.SliceWiseInferer.__call__", None)
    name, *options = command.split(" ")
    source = ["--data", tmp_path / "ct"] if name == "evaluate" else [tmp_path / "ct"]
    message, code = f"Permission denied: {tmp_path / 'locked'}", 2 if name == "evaluate" else 3
    assert_refused(tmp_path, code, message, name, *source, "-o", tmp_path / "locked" / "new" / "out", *options)


PLACES = [
    *(["restore", "PLACE", "-o", "out"], ["restore", "ct", "-o", "PLACE"]),
    *(["restore", "ct", "-o", "out", "--weights", "PLACE"], ["restore", "ct", "-o", "out", "--bundle", "PLACE"]),
    ["restore", "ct", "-o", "PLACE", "--dry-run"],
    *(["degrade", "PLACE", "-o", "out"], ["degrade", "ct", "-o", "PLACE"]),
    *(["evaluate", "--data", "PLACE", "-o", "out"], ["evaluate", "--data", "ct", "-o", "PLACE"]),
    *(["export", "-o", "PLACE"], ["bundles", "check", "PLACE"], ["bundles", "package", "PLACE", "-o", "out"]),
]


@pytest.mark.parametrize("args", PLACES, ids=" ".join)
@pytest.mark.parametrize(("place", "message"), [("a" * 300, "File name too long"), ("closed/a", "Permission denied")])
def test_a_place_that_the_system_does_not_look_up_is_said(tmp_path, monkeypatch, args, place, message):
    if args[0] == "export":
        pytest.importorskip("onnxscript")
    good(tmp_path)
    stat = Path.stat

    def looked_up(path, **options):
        if "closed" in path.parts:  # as by root, who may enter all folders
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", looked_up)
    monkeypatch.chdir(tmp_path)
    code = 3 if args[:3] == ["degrade", "ct", "-o"] else 2
    assert_refused(tmp_path, code, f"{message}: .*{place}", *(place if arg == "PLACE" else arg for arg in args))


@pytest.mark.slow
def test_a_terminated_command_leaves_no_temporary_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in ct_series(tmp_path / "ct", slices=40, size=512):
            archive.write(file, file.name)
    (tmp_path / "temporary").mkdir()
    args = ["restore", tmp_path / "a.zip", "-o", tmp_path / "out"]
    command = [sys.executable, "-m", "medrestore_monai", *map(str, args)]
    process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path / "temporary")})
    while not any((tmp_path / "temporary").rglob("*.dcm")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not list((tmp_path / "temporary").rglob("*.dcm"))
    assert not (tmp_path / "out").exists()


def test_too_little_memory_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("medrestore_monai.inferers.available_bytes", lambda device: 1000)
    args = ["restore", good(tmp_path), "-o", tmp_path / "out"]
    assert_refused(tmp_path, 3, "Restoring a 24x16 slice needs about .* GB on cpu", *args)


def test_missing_weights_of_a_bundle(tmp_path, monkeypatch):
    bundle = make_tiny_bundle(tmp_path / "bundles")
    (bundle / "models" / "model.pt").unlink()
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(bundle.parent))
    args = ["restore", good(tmp_path), "-o", tmp_path / "out"]
    assert_refused(tmp_path, 3, "model.pt is missing; train the bundle", *args)
    assert "missing" in run("bundles", "list").stdout
    result = run("bundles", "show", NAME)
    assert (result.exit_code, "is missing" in result.stderr) == (3, True)


def test_an_unknown_bundle_cannot_be_shown(tmp_path):
    assert_refused(tmp_path, 2, "no bundle 'nothing'", "bundles", "show", "nothing")


def test_precision_is_a_choice(tmp_path):
    ct_series(tmp_path / "ct", slices=2, size=SIZE)
    assert run("restore", tmp_path / "ct", "-o", tmp_path / "out", "--precision", "bfloat16").exit_code == 0
    shutil.rmtree(tmp_path / "out")
    message = "precision must be float32 or bfloat16, got 'int8'"
    assert_refused(tmp_path, 2, message, "restore", tmp_path / "ct", "-o", tmp_path / "out", "--precision", "int8")


def test_a_report_is_of_the_stack_that_is_named(tmp_path):
    def second_phase(ds, index):
        ds.AcquisitionNumber, ds.SOPInstanceUID = 2, f"{ds.SOPInstanceUID}.2"

    ct_series(tmp_path / "ct", slices=2, size=64)
    ct_series(tmp_path / "ct" / "b", volume=ct_volume(2, 64) + 3, edit=second_phase)
    result = run("restore", tmp_path / "ct", "-o", tmp_path / "one", "--stack", "2", "--report")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "one_report" / "audit.html").is_file()
    assert "\nScope of the training: " in result.stdout
    result = run("restore", tmp_path / "ct", "-o", tmp_path / "all", "--report")
    assert result.exit_code == 0, result.output
    assert "there is no report" in result.stderr
    assert len(list((tmp_path / "all").rglob("*.dcm"))) == 4


def test_a_report_may_not_lie_in_its_data(tmp_path):
    ct_series(tmp_path / "data" / "p1")
    result = CliRunner().invoke(app, ["evaluate", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "data" / "r")])
    assert result.exit_code == 2
    assert not (tmp_path / "data" / "r").exists()


def test_a_dry_run_of_one_series_is_refused(tmp_path):
    ct_series(tmp_path / "in")
    result = CliRunner().invoke(
        app, ["restore", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--series", "1.2", "--dry-run"]
    )
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_notes_on_many_studies_are_printed_once_each_with_options_for_fields(tmp_path):
    for number in range(2):
        volume = ct_volume(4, SIZE).transpose(2, 0, 1).copy()
        volume[0, 0, 0] = np.nan
        image = nib.Nifti1Image(volume, np.diag([5, 0.7, 0.7, 1]))
        (tmp_path / "in" / "p").mkdir(parents=True, exist_ok=True)
        nib.save(image, tmp_path / "in" / "p" / f"{number}.nii.gz")
    result = run("restore", tmp_path / "in", "-o", tmp_path / "out", "--device", "cpu", "--bundle", NAME)
    assert result.exit_code == 0, result.output
    for number in range(2):
        notes = [line for line in result.stderr.splitlines() if "Note:" in line and f"p/{number}.nii.gz" in line]
        assert len(notes) == 2, result.stderr
        assert all(line.count(".nii.gz") == 1 for line in notes)
        assert sum("give --slice-axis, 0 to 2" in line for line in notes) == 1
    assert "`" not in result.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_word_of_a_help_text_is_lost_as_markup(command):
    """``[cluster]`` in a text is a style to Rich, and not printed."""
    text = " ".join(run(*command, "--help").stdout.split())
    assert not re.search(r"[a-z] ,|\( ?\)| \.( |$)", text.replace("...", ""))
