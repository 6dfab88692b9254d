"""``--json``: one document of a published schema, whatever happens, and nothing of the patient in it."""

import json
import re
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pydicom
import pytest
from phantoms import ct_series, ct_volume
from tiny_bundle import NAME, make_tiny_bundle
from typer.testing import CliRunner

import medrestore_monai.cli
from medrestore_monai.bundles import find_bundle
from medrestore_monai.cli import app
from medrestore_monai.restorer import Restorer

SIZE = (24, 16)
SCHEMAS = Path(medrestore_monai.cli.__file__).parent / "schemas"
NAMES = sorted(path.stem for path in SCHEMAS.iterdir())


@pytest.fixture(autouse=True)
def _found(bundle, monkeypatch):
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(bundle.parent))


def check(document):
    """The document keeps to its schema, and the schema names all of its fields."""
    schema = json.loads((SCHEMAS / f"{'-'.join(document['schema'].split('/')[1:])}.json").read_text())
    jsonschema.validate(document, close(schema), cls=jsonschema.Draft202012Validator)
    return document


def close(schema):
    """Let a schema refuse fields that it does not name."""
    closed = {key: close(value) if isinstance(value, dict) else value for key, value in schema.items()}
    if "required" in schema and "properties" in schema:
        closed["additionalProperties"] = False
    return closed


def run(*args, code=0):
    """The document that a command prints."""
    result = CliRunner().invoke(app, [*(str(arg) for arg in args), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return check(json.loads(result.stdout))


def fail(*args, code):
    document = run(*args, code=code)
    assert document["schema"] == "medrestore/error/1"
    assert document["exit_code"] == code
    return document


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_one_and_has_its_name(name):
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    what, version = name.rsplit("-", 1)
    assert schema["properties"]["schema"]["const"] == schema["$id"] == f"medrestore/{what}/{version}"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": schema["$id"]}, schema)


def test_the_documentation_names_every_schema():
    page = (Path(__file__).resolve().parents[2] / "docs" / "json.md").read_text()
    assert set(re.findall(r"schemas/([\w-]+)\.json", page)) == set(NAMES)


def test_bundles_are_listed_and_shown(bundle):
    listed = {one["name"]: one for one in run("bundles", "list")["bundles"]}
    assert listed[NAME]["folder"] == str(bundle)
    assert listed["all_in_one_restore_rwkv"]["tasks"] == {
        "CT": "denoising",
        "MR": "super-resolution",
        "PT": "synthesis",
    }
    shown = run("bundles", "show", NAME)
    assert {key: shown[key] for key in listed[NAME]} == listed[NAME]
    settings = {one["name"]: one for one in shown["settings"]}
    assert settings["strength"]["option"] == "--strength"
    assert (settings["strength"]["range"], settings["strength"]["default"]) == ("[0, 1]", 1.0)
    assert settings["mean_hu"]["option"] == "--set mean_hu"
    assert settings["mean_hu"]["choices"] == ["check", "correct", "off"]
    assert (settings["dose"]["command"], settings["seed"]["option"]) == ("evaluate", "--seed")
    assert settings["device"]["default"] is None  # computed
    assert shown["trained_on"]["modalities"]["CT"]["patients"] == 37
    assert shown["inputs"]["image"]["num_channels"] == 1


@pytest.mark.parametrize("name", ["mri_superresolution_restore_rwkv", "pet_synthesis_restore_rwkv"])
def test_what_is_shown_can_be_set(name):
    for setting in run("bundles", "show", name)["settings"]:
        declared = find_bundle(name).settings[setting["name"]]
        assert setting["takes"] == declared.expected
        if setting["default"] not in (None, "") and setting["kind"] != "path":
            assert declared.check(setting["default"]) == setting["default"]


def test_a_bundle_is_checked(bundle, tmp_path):
    assert run("bundles", "check", bundle) == {
        "schema": "medrestore/bundles-check/1",
        "medrestore": medrestore_monai.__version__,
        "bundle": str(bundle),
        "safe": True,
        "findings": [],
    }
    root = make_tiny_bundle(tmp_path)
    (root / "evil\x1b[2J.py").write_text("")
    found = run("bundles", "check", root, code=3)
    assert not found["safe"]
    assert [one["file"] for one in found["findings"]] == ["evil\x1b[2J.py"]
    result = CliRunner().invoke(app, ["bundles", "check", str(root), "--json"])
    assert "\x1b" not in result.output


def test_doctor_answers():
    found = run("doctor")
    assert found["packages"]["torch"]
    assert NAME in found["bundles"]
    assert found["cpu"]["threads"] >= 1


def test_one_study_and_many_have_the_same_record(tmp_path):
    files = ct_series(tmp_path / "in" / "a", slices=2, size=SIZE, series="a")
    np.save(tmp_path / "in" / "b.npy", ct_volume(2, SIZE))
    many = run("restore", tmp_path / "in", "-o", tmp_path / "many", "--bundle", NAME)
    manifest = check(json.loads((tmp_path / "many" / "manifest.json").read_text()))
    assert manifest["schema"] == many["schema"]
    assert manifest["studies"] == many["studies"]
    records = {one["name"]: one for one in many["studies"]}
    for name in ("a", "b.npy"):
        (one,) = run("restore", tmp_path / "in" / name, "-o", tmp_path / f"one_{name}", "--bundle", NAME)["studies"]
        fleeting = ("name", "output", "run", "started", "finished", "seconds")
        assert {key: one[key] for key in one if key not in fleeting} == {
            key: records[name][key] for key in records[name] if key not in fleeting
        }
        assert Path(one["output"]).exists()
    assert (records["a"]["files"], records["a"]["modality"]) == (2, "CT")
    assert records["a"]["size"] == sum(file.stat().st_size for file in files)


def test_a_series_that_is_named(tmp_path):
    ct_series(tmp_path / "in", slices=1, size=SIZE, series="a")
    (wanted,) = ct_series(tmp_path / "in", slices=1, size=SIZE, series="b")
    plan = run("restore", tmp_path / "in", "-o", tmp_path / "out", "--bundle", NAME, "--dry-run")
    assert [one["state"] for one in plan["studies"]] == ["to do", "to do"]
    assert not (tmp_path / "out").exists()
    uid = pydicom.dcmread(wanted).SeriesInstanceUID
    (one,) = run("restore", tmp_path / "in", "-o", tmp_path / "out", "--bundle", NAME, "--series", uid)["studies"]
    assert (one["series_uid"], one["files"]) == (str(uid), 1)


def test_a_study_that_fails_is_in_the_record(tmp_path):
    ct_series(tmp_path / "in" / "a", slices=2, size=SIZE)
    (tmp_path / "in" / "bad.npy").write_bytes(b"nothing")
    records = run("restore", tmp_path / "in", "-o", tmp_path / "out", "--bundle", NAME, code=3)["studies"]
    assert [one["outcome"] for one in records] == ["restored", "failed"]
    assert "bad.npy" in records[1]["reason"]
    plan = run("restore", tmp_path / "in", "-o", tmp_path / "out", "--bundle", NAME, "--dry-run", "--strength", "0.5")
    assert [one["state"] for one in plan["studies"]] == ["restored otherwise", "to do"]
    assert "strength" in plan["studies"][0]["reason"]


@pytest.mark.parametrize("task", ["gaussian_blur", "down_sampling", "jpeg"])
def test_what_was_simulated(tmp_path, task):
    np.save(tmp_path / "a.npy", ct_volume(1, SIZE)[..., 0])
    found = run("degrade", tmp_path / "a.npy", "-o", tmp_path / "b.npy", "--task", task, "--seed", "3")
    (image,) = found["images"]
    assert (image["source"], image["output"]) == (str(tmp_path / "a.npy"), str(tmp_path / "b.npy"))
    again = [word for name, value in image["parameters"].items() for word in (f"--{name.replace('_', '-')}", value)]
    run("degrade", tmp_path / "a.npy", "-o", tmp_path / "c.npy", "--task", task, "--seed", "3", *again)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), np.load(tmp_path / "c.npy"))


def test_scores(tmp_path):
    for name in ("HQ", "LQ"):
        (tmp_path / "data" / name).mkdir(parents=True)
        np.save(tmp_path / "data" / name / "p.npy", ct_volume(1, (40, 32), noise=5 if name == "HQ" else 40))
    found = run(
        "evaluate", "--bundle", NAME, "--data", tmp_path / "data", "--layout", "paired", "--baselines", "none",
        "-o", tmp_path / "report", "--device", "cpu",
    )  # fmt: skip
    assert found["output"] == str(tmp_path / "report")
    written = check(json.loads((tmp_path / "report" / "table.json").read_text()))
    assert written == {key: value for key, value in found.items() if key not in ("medrestore", "output")}
    assert {row["method"] for row in found["table"]} == {"input", NAME}


BAD = [
    (2, "usage", ["restore", "nothing", "-o", "out"]),
    (2, "usage", ["restore", "a.npy", "-o", "out.npy", "--bundle", "nothing"]),
    (2, "usage", ["restore", "a.npy", "-o", "out.npy", "--strength", "2"]),
    (2, "usage", ["restore", "a.npy"]),
    (2, "usage", ["degrade", "a.npy", "-o", "out.npy", "--task", "nothing"]),
    (2, "usage", ["bundles", "show", "nothing"]),
    (2, "usage", ["bundles", "shown"]),
    (2, "usage", ["audit", "a.npy", "a.npy", "-o", "report"]),  # which has no such option
    (3, "data", ["restore", "bad.npy", "-o", "out.npy", "--bundle", NAME]),
    (3, "data", ["evaluate", "--data", "bad", "-o", "report", "--bundle", NAME, "--baselines", "none"]),
]


@pytest.mark.parametrize(("code", "kind", "args"), BAD, ids=str)
def test_an_error_is_a_document_too(tmp_path, monkeypatch, code, kind, args):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", ct_volume(1, SIZE)[..., 0])
    Path("bad.npy").write_bytes(b"nothing")
    Path("bad").mkdir()
    document = fail(*args, code=code)
    assert document["error"] == kind
    assert document["command"] in (" ".join(args[:2]), args[0])
    plain = CliRunner().invoke(app, args)
    if args[0] != "audit":
        assert plain.exit_code == code
        assert document["message"].split()[0] in plain.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "bad", "bad.npy"]


def test_a_mistake_of_ours_is_a_document_too(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", ct_volume(1, SIZE)[..., 0])

    def broken(*args, **options):
        raise KeyError("PatientName: Canary")

    monkeypatch.setattr(Restorer, "restore_file", broken)
    command = ["restore", str(tmp_path / "a.npy"), "-o", str(tmp_path / "out.npy"), "--bundle", NAME, "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert isinstance(result.exception, KeyError)
    document = check(json.loads(result.stdout))
    assert (document["error"], document["exit_code"]) == ("internal", 1)
    assert "Canary" not in result.stdout


def test_what_a_library_prints_goes_to_the_error_stream(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", ct_volume(1, SIZE)[..., 0])
    restore_file = Restorer.restore_file

    def chatty(*args, **options):
        sys.stdout.write("hello")
        return restore_file(*args, **options)

    monkeypatch.setattr(Restorer, "restore_file", chatty)
    command = ["restore", str(tmp_path / "a.npy"), "-o", str(tmp_path / "out.npy"), "--bundle", NAME, "--json"]
    result = CliRunner().invoke(app, command)
    check(json.loads(result.stdout))
    assert "hello" in result.stderr


def test_a_record_is_written_to_a_file(tmp_path):
    np.save(tmp_path / "a.npy", ct_volume(1, SIZE)[..., 0])
    command = ["degrade", tmp_path / "a.npy", "-o", tmp_path / "b.npy", "--task", "gaussian_blur"]
    record = tmp_path / "record.json"
    printed = run(*command, "--record", record)
    assert check(json.loads(record.read_text())) == printed
    assert "record.json exists" in fail(*command, "--record", record, code=2)["message"]
    again = CliRunner().invoke(app, [*map(str, command), "--record", str(record), "--overwrite", "--seed", "1"])
    assert again.exit_code == 0
    assert "simulated: " in again.stdout
    assert check(json.loads(record.read_text()))["seed"] == 1
    (tmp_path / "mine.json").write_text("{}")
    assert "mine.json exists" in fail(*command, "--record", tmp_path / "mine.json", "--overwrite", code=2)["message"]
    failed = CliRunner().invoke(app, [*map(str, command), "--record", str(tmp_path / "failed.json")])
    assert failed.exit_code == 2
    assert "exists" in check(json.loads((tmp_path / "failed.json").read_text()))["message"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("in/record.json", "may not lie in in"),
        ("out.npy", "may not be the output"),
        ("nothing/record.json", "no file in an existing folder"),
        ("in", "exists"),
    ],
)
def test_a_record_never_lies_in_the_way(tmp_path, monkeypatch, record, message):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    np.save("in/a.npy", ct_volume(1, SIZE)[..., 0])
    command = ["degrade", "in", "-o", "out.npy", "--task", "gaussian_blur", "--record", record]
    assert message in fail(*command, code=2)["message"]
    assert sorted(str(path) for path in Path().rglob("*")) == ["in", "in/a.npy"]


def plant(ds, index):
    ds.PatientName = ds.PatientID = ds.StudyDescription = ds.SeriesDescription = ds.ImageComments = "Canary"


def test_no_document_quotes_a_header(tmp_path):
    ct_series(tmp_path / "in" / "good", slices=2, size=SIZE, edit=plant)
    ct_series(tmp_path / "in" / "gap", slices=6, size=SIZE, edit=plant, series="b", skip=[2])

    def spoil(ds, index):
        plant(ds, index)
        ds.RescaleType = "Canary"

    ct_series(tmp_path / "in" / "bad", slices=2, size=SIZE, edit=spoil, series="c")
    options = ["--bundle", NAME, "--verbose", "--record", tmp_path / "record.json"]
    many = run("restore", tmp_path / "in", "-o", tmp_path / "out", *options, code=3)
    assert [one["outcome"] for one in many["studies"]] == ["failed", "failed", "restored"]
    one = fail("restore", tmp_path / "in" / "bad", "-o", tmp_path / "one", "--bundle", NAME, code=3)
    low = run("degrade", tmp_path / "in" / "good", "-o", tmp_path / "low", "--task", "gaussian_blur")
    assert "Canary" not in json.dumps([many, one, low]) + (tmp_path / "record.json").read_text()
