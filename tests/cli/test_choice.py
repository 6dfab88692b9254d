"""``medrestore restore`` without a bundle: CT and PET have a safe default, and for everything else it asks."""

import numpy as np
import pydicom
import pytest
from phantoms import ct_series, ct_volume, mr_series, pet_series
from PIL import Image
from tiny_bundle import BUNDLES, NAME, make_tiny_bundle
from typer.testing import CliRunner

from medrestore_monai.cli import app
from medrestore_monai.cli.choice import EXAMPLES, READABLE, SAFE, choose_bundle
from medrestore_monai.files import UsageError
from medrestore_monai.notes import Notes
from medrestore_monai.studies import list_studies

SIZE = (24, 16)
MR, PET = "mri_superresolution_restore_rwkv", "pet_synthesis_restore_rwkv"


def write_array(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, ct_volume(1, SIZE)[..., 0])


def write_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(path)


WRITERS = {
    "ct": lambda place: ct_series(place, slices=1, size=SIZE),
    "pet": lambda place: pet_series(place, slices=1, size=SIZE, series="p"),
    "mr": lambda place: mr_series(place, slices=1, size=SIZE, series="m"),
    "scout": lambda place: ct_series(
        place, slices=1, size=SIZE, series="s", edit=lambda ds, i: setattr(ds, "ImageType", ["A", "B", "LOCALIZER"])
    ),
    "array": lambda place: write_array(place / "a.npy"),
    "picture": lambda place: write_picture(place / "a.png"),
    "bad": lambda place: (place.mkdir(), (place / "b.txt").write_text("text")),
}


def choose(folder, kinds, modality=None):
    for kind in kinds:
        WRITERS[kind.strip("+")](folder if "+" in kind else folder / kind)
    with Notes() as notes:
        bundle = choose_bundle(folder, folder / "out", modality, list_studies(folder, READABLE))
    return bundle, notes.messages


@pytest.mark.parametrize(
    ("kinds", "modality", "bundle"),
    [
        (["ct"], None, NAME),
        (["ct", "scout"], None, NAME),
        (["pet"], None, PET),
        (["ct+", "picture+"], None, NAME),  # a preview
        (["array"], "CT", NAME),
        (["array"], "pet", PET),
        (["picture"], "CT", NAME),
        (["ct", "array"], "CT", NAME),
    ],
)
def test_a_modality_with_a_safe_default_is_restored_and_said(tmp_path, kinds, modality, bundle):
    chosen, notes = choose(tmp_path, kinds, modality)
    assert chosen == bundle
    (word,) = [one for one, name in SAFE.items() if name == bundle]
    assert notes == [f"no bundle is named: {word} is restored with {bundle}."]


@pytest.mark.parametrize(
    ("kinds", "modality", "words", "example"),
    [
        (["mr"], None, f"for MR: name one, for MR {MR}, all_in_one_restore_rwkv, multimodal_deblur_meddeblur", MR),
        (["picture"], None, "for pictures: name one, for pictures rgb_deblur_aff_unet_rwkv", "rgb_deblur_mlff_unet"),
        (["array"], None, "does not state its modality: give `modality=CT` or `modality=PT`, or name a bundle", MR),
        (["array"], "MR", "there is no default bundle for MR", MR),
        (["ct", "pet"], None, "holds CT and PT, which no one bundle restores by default", "all_in_one_restore_rwkv"),
        (["ct", "mr"], None, "each from a folder of its own, or all with", "all_in_one_restore_rwkv"),
        (["ct", "array"], None, "do not state their modality", MR),
        (["pet"], "CT", None, PET),
    ],
)
def test_for_everything_else_it_asks(tmp_path, kinds, modality, words, example):
    if words is None:  # a header is believed, not the option
        assert choose(tmp_path, kinds, modality)[0] == example
        return
    with pytest.raises(UsageError) as error:
        choose(tmp_path, kinds, modality)
    assert words in str(error.value)
    assert str(error.value).endswith(f"-o {tmp_path / 'out'} --bundle {example}")


def test_every_name_is_that_of_a_bundle():
    for modality, name in EXAMPLES.items():
        assert f'"{modality}"' in (BUNDLES / name / "configs" / "metadata.json").read_text()


@pytest.mark.parametrize("kinds", [[], ["bad"]])
def test_what_holds_no_image_is_said_by_the_restoration(tmp_path, kinds):
    assert choose(tmp_path, kinds) == (NAME, [])


def run(*args, code):
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return " ".join(result.stderr.split())


@pytest.mark.slow
def test_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(make_tiny_bundle(tmp_path / "bundles").parent))
    WRITERS["ct"](tmp_path / "ct")
    for source, options in (("ct", []), ("ct", ["--dry-run"])):
        output = tmp_path / f"out{len(options)}"
        assert f"CT is restored with {NAME}." in run("restore", tmp_path / source, "-o", output, *options, code=0)
    WRITERS["mr"](tmp_path / "ct")
    message = run("restore", tmp_path / "ct", "-o", tmp_path / "more", code=2)
    assert "holds CT and MR, which no one bundle restores by default" in message
    WRITERS["array"](tmp_path / "array")
    message = run("restore", tmp_path / "array" / "a.npy", "-o", tmp_path / "b.npy", code=2)
    assert "give --modality CT or --modality PT" in message
    assert f"Example: medrestore restore {tmp_path / 'array' / 'a.npy'} -o {tmp_path / 'b.npy'} --bundle" in message
    assert not (tmp_path / "more").exists()
    assert not (tmp_path / "b.npy").exists()
    (file,) = [one for one in (tmp_path / "ct").iterdir() if pydicom.dcmread(one).Modality == "CT"]
    uid = pydicom.dcmread(file).SeriesInstanceUID
    run("restore", tmp_path / "ct", "-o", tmp_path / "one", "--series", uid, code=0)
    assert len(list((tmp_path / "one").iterdir())) == 1
