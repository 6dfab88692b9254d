"""Configurations that name what has moved end with the new name."""

import importlib
from pathlib import Path

import pytest
from tiny_bundle import BUNDLES, edit_json, make_tiny_bundle

import medrestore_monai
from medrestore_monai import transforms
from medrestore_monai.bundles.check import check_bundle
from medrestore_monai.bundles.moved import MOVED, reason_moved
from medrestore_monai.restorer import restore

CONFIGS = sorted(BUNDLES.glob("*/configs/*.json"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("medrestore_monai.loading.LoadImageOrSeriesd", "medrestore_monai.data.LoadImageOrSeriesd"),
        ("$medrestore_monai.saving.plan_outputs(@dataset_dir)", "medrestore_monai.data.plan_outputs"),
        ("medrestore_monai.layouts.clean.ixi", "medrestore_monai.data.ixi"),
        ("$from medrestore_monai.layouts import ixi", "medrestore_monai.data"),
        ("medrestore_monai.transforms.pet_low_count.PETNoiseMapd", "medrestore_monai.transforms.PETNoiseMapd"),
    ],
)
def test_an_old_name_has_a_new_one(text, expected):
    assert reason_moved(text).endswith(f" is now {expected}")
    module, _, name = expected.rpartition(".")
    assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("medrestore_monai.transforms.fixed.CTLowDosed", "SimulateCTLowDosed"),
        ("medrestore_monai.transforms.pet_fixed.PETLowCountd", "SimulatePETLowCountd"),
        ("medrestore_monai.transforms.PETLowCountd", "SimulatePETLowCountd"),
    ],
)
def test_a_class_with_a_seed_rule_of_its_own_is_wrapped_now(text, kind):
    place = "medrestore_monai.transforms"
    assert reason_moved(text) == f"{text} is now {place}.FixedDegradationd with the transform {place}.{kind}"
    assert hasattr(transforms, kind)
    assert hasattr(transforms, "FixedDegradationd")


@pytest.mark.parametrize(
    "text",
    [
        *("medrestore_monai.data.ixi", "medrestore_monai.transforms.CTNoise", "mine.medrestore_monai.loadings", ""),
        *("medrestore_monai.transforms.RandPETLowCountd", "medrestore_monai.transforms.fixed.FixedDegradationd"),
    ],
)
def test_a_name_that_has_not_moved_is_left_alone(text):
    assert reason_moved(text) == ""


def test_no_old_name_is_there_any_more():
    top = Path(medrestore_monai.__file__).parents[1]
    for name in MOVED:
        place = top.joinpath(*name.split("."))
        assert not place.with_suffix(".py").exists()
        assert not (place / "__init__.py").exists()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_no_shipped_configuration_has_an_old_name(path):
    assert reason_moved(path.read_text(encoding="utf-8")) == ""


def test_a_bundle_of_an_earlier_version_is_refused_in_one_sentence(tmp_path):
    bundle = make_tiny_bundle(tmp_path / "mine")
    config, old = bundle / "configs" / "inference.json", "medrestore_monai.loading.LoadImageOrSeriesd"
    edit_json(config, lambda content: content["load"].update(_target_=old))
    said = f"{old} is now medrestore_monai.data.LoadImageOrSeriesd"
    with pytest.raises(ValueError, match=rf"inference\.json was written for an earlier version: {said}"):
        restore(tmp_path / "a.nii.gz", tmp_path / "out", bundle, device="cpu")
    assert said in " ".join(map(str, check_bundle(bundle)))
