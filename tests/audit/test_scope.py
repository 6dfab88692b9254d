"""Images like the training's, near its edge, and of another kind."""

import json

import numpy as np
import pydicom
import pytest
from noise_fields import correlated_noise
from phantoms import body_phantom, pet_series

from medrestore_monai.audit.reading import read_volume
from medrestore_monai.audit.scope import Feature, Scope, limit_of, look_of, measure_scope
from medrestore_monai.audit.volume import Volume
from medrestore_monai.bundles import find_bundle

TRAINED = json.loads(find_bundle("ct_denoise_restore_rwkv").config("metadata").read_text())["trained_on"]
SPACING = (0.7, 0.7, 2.5)


def ct(sd=20.0, cutoff=0.6):
    noise, _, _ = correlated_noise((256, 240, 2), 0.7, cutoff, sd, seed=1)
    x, y = np.meshgrid(np.linspace(-1, 1, 256), np.linspace(-1, 1, 240), indexing="ij")
    level = np.where(np.hypot(x, y) < 0.75, 40.0, -1000.0)
    level[np.hypot(x - 0.5, y) < 0.2] = -90
    return level[..., None] + noise * (level > -900)[..., None]


def state_of(scope, name):
    return next(one.state for one in scope.features if one.name == name)


@pytest.mark.slow
def test_a_ct_like_the_training_is_in():
    scope = measure_scope(Volume(ct(), "CT", SPACING), TRAINED)
    assert scope.state == "in", scope
    assert scope.line.startswith("Scope of the training: in")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("volume", "name", "state"),
    [
        (Volume(ct(), "CT", (1.02, 1.02, 2.5)), "pixel size", "near the edge"),
        (Volume(ct(), "CT", (2.0, 2.0, 2.5)), "pixel size", "out"),
        (Volume(ct(), "CT", (0.7, 3.0, 2.5)), "pixel size", "out"),
        (Volume(ct(sd=600), "CT", SPACING), "noise level", "out"),
        (Volume(ct(sd=0), "CT", SPACING), "noise level", "out"),
        (Volume(ct() + 1024, "CT", SPACING), "air and lung", "out"),
        (Volume(-ct(), "CT", SPACING), "air and lung", "out"),
        (Volume(4 * ct() + 3000, "CT", SPACING), "histogram", "out"),
        (Volume(ct(), "CT", SPACING, unit="gray levels"), "unit", "out"),
        (Volume(ct(), "MR", SPACING), "modality", "out"),
        (Volume(np.abs(ct()), "PT", SPACING), "modality", "out"),
        (Volume(np.abs(ct()) % 255, "GRAY"), "modality", "out"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_training_did_not_cover_is_flagged_with_the_reason(volume, name, state):
    scope = measure_scope(volume, TRAINED)
    assert state_of(scope, name) == state
    assert scope.state == "out" if state == "out" else scope.state in ("near the edge", "out")
    assert any(reason.startswith(name) for reason in scope.reasons)
    assert name in scope.line


@pytest.mark.slow
def test_slice_distance_counts_where_the_network_sees_neighbors():
    volume = Volume(ct(), "CT", SPACING)
    names = [one.name for one in measure_scope(volume, TRAINED).features]
    assert "slice distance" not in names
    assert state_of(measure_scope(volume, TRAINED, neighbors=True), "slice distance") == "out"


@pytest.mark.parametrize(
    ("about", "state"),
    [
        ({"tube voltage": "120 kV"}, "in"),
        ({"tube voltage": "100 kV"}, "near the edge"),
        ({"tube voltage": "80 kV"}, "out"),
        ({"field strength": "3 T"}, "in"),
        ({"field strength": "1 T"}, "near the edge"),
        ({"field strength": "7 T"}, "out"),
        ({"field strength": "0.055 T"}, "out"),
        ({"tracer": "fdg"}, "in"),
        ({"tracer": "PSMA"}, "out"),
        ({"tracer": "one that is not well known"}, "unknown"),
    ],
    ids=str,
)
def test_what_the_header_tells_of_the_scanner_is_compared(about, state):
    scanner = {"tube_voltage_kv": [120, 140], "field_strength_t": [1.5, 3.0], "tracers": ["FDG"]}
    volume = Volume(np.abs(body_phantom(48)), "PT", (4, 4, 3), about=about)
    (name,) = about
    for stated, wanted in ((scanner, state), ({}, "unknown")):
        scope = measure_scope(volume, {"modalities": {"PT": {"unit": "SUV", "pixel_mm": [3.0, 5.0], **stated}}})
        assert state_of(scope, name) == wanted
        assert scope.state == (wanted if wanted != "unknown" else "in")
    assert name in scope.line.partition("not compared: ")[2]


@pytest.mark.parametrize(
    ("text", "code", "tracer"),
    [
        ("", "Fluorodeoxyglucose F^18^", "FDG"),
        ("Solution FDG of today", "", "FDG"),
        ("deoxyglucose", "", "FDG"),
        ("Fluordesoxyglukose", "", "FDG"),
        ("2-deoxy-2-[18F]fluoro-D-glucose", "", "FDG"),
        ("sterile water", "Fluorodeoxyglucose F^18^", "FDG"),
        ("F-18", "", "one that is not well known"),
        ("", "PSMA-1007", "PSMA"),
        ("of somebody's own", "", "one that is not well known"),
        ("", "", None),
    ],
)
def test_the_tracer_is_read_from_the_text_or_the_code_of_a_header(tmp_path, text, code, tracer):
    for path in pet_series(tmp_path, slices=2, size=8):
        ds = pydicom.dcmread(path)
        drug = ds.RadiopharmaceuticalInformationSequence[0]
        drug.Radiopharmaceutical = text
        if code:
            named = pydicom.Dataset()
            named.CodeValue, named.CodingSchemeDesignator, named.CodeMeaning = "1", "99TEST", code
            drug.RadiopharmaceuticalCodeSequence = [named]
        ds.save_as(path)
    assert read_volume(tmp_path).about.get("tracer") == tracer


def test_the_shipped_bundles_state_what_is_known_of_their_scanners():
    for name, modality, key in (
        ("ct_denoise_restore_rwkv", "CT", "tube_voltage_kv"),
        ("pet_synthesis_restore_rwkv", "PT", "tracers"),
        ("mri_superresolution_restore_rwkv", "MR", "field_strength_t"),
    ):
        block = json.loads(find_bundle(name).config("metadata").read_text())["trained_on"]["modalities"][modality]
        assert block[key]


def test_pet_needs_its_suv():
    trained = {"modalities": {"PT": {"unit": "SUV", "pixel_mm": [3.0, 5.0]}}}
    array = np.abs(body_phantom(48)) * 100
    assert state_of(measure_scope(Volume(array, "PT", (4, 4, 3), "Bq/ml"), trained), "unit") == "out"
    with_suv = measure_scope(Volume(array, "PT", (4, 4, 3), "Bq/ml", suv_factor=1e-4), trained)
    assert state_of(with_suv, "unit") == "in"
    assert state_of(with_suv, "histogram") == "unknown"


def test_the_look_of_an_image_without_a_unit_is_compared():
    x, y = np.meshgrid(np.linspace(-1, 1, 97), np.linspace(-1, 1, 84), indexing="ij")
    head = 500.0 * (np.hypot(x, y) < 0.9)[..., None] * np.array([1.0, 0.9])
    background = float((head == 0).mean())
    for factor in (1, 3, 6, 1e4):
        assert look_of(head * factor) == pytest.approx({"background": background, "border": 0.0})
    assert look_of(0 * head) == {"background": 1.0, "border": 0.0}
    block = {"appearance": {"background": [background / 2, 0.6], "border": [0.001, 0.1]}}

    def scope_of(array):
        return measure_scope(Volume(array, "MR", (1, 1, 3)), {"modalities": {"MR": block}})

    assert scope_of(head).score == scope_of(head * 3).score == scope_of(head * 1e4).score == 0
    for wrong, names in ((500 - head, {"border"}), (100 + head, {"background", "border"})):
        assert {one.name for one in scope_of(wrong).features if one.state == "out"} == names
    empty = np.pad(head, ((200, 200), (200, 200), (0, 0)))
    assert state_of(scope_of(empty), "background") == "out"
    assert state_of(scope_of(head - 250), "negative values") == "out"
    block["appearance"] = {"border": [0, 0]}
    assert scope_of(100 + head).score == 10
    block["appearance"] = {"background": [0.01, 0.1]}
    odds = np.log(background / (1 - background)) - np.log(0.1 / 0.9)
    assert scope_of(head).score == pytest.approx(odds)


def test_a_bundle_that_states_nothing_is_unknown():
    scope = measure_scope(Volume(ct(), "CT", SPACING), {})
    assert scope.state == "unknown"
    assert not scope.reasons


def pet(side):
    trained = {"modalities": {"PT": {"unit": "SUV", "pixel_mm": [3.0, 5.0]}}}
    return Volume(np.abs(body_phantom(48)), "PT", (side, 4, 3)), trained["modalities"]["PT"], trained


def test_the_score_is_the_largest_distance_in_margins():
    volume, _, trained = pet(5.4)  # 8 % above 5 mm, of a margin of 10 %
    scope = measure_scope(volume, trained)
    assert scope.score == pytest.approx(0.8)
    assert scope.state == "near the edge"
    assert "score 0.8 of at most 1" in scope.line
    assert scope.p is None
    unit = measure_scope(Volume(volume.array, "PT", volume.spacing, "counts"), trained)
    assert unit.score == 10
    assert unit.state == "out"
    assert measure_scope(volume, {}).score is None


@pytest.mark.parametrize(("side", "state", "p"), [(4.0, "in", 1.0), (5.8, "near the edge", 0.1), (5.95, "out", 0.05)])
def test_people_like_the_trainings_decide_what_is_out(side, state, p):
    volume, block, trained = pet(side)
    block["scope_scores"] = [1.8, 0.3, *[0.0] * 17]  # 19 people
    scope = measure_scope(volume, trained)
    assert scope.state == state
    assert scope.p == pytest.approx(p)
    assert scope.as_dict()["people"] == 19
    assert json.dumps(scope.as_dict(), allow_nan=False)


def test_the_line_tells_a_score_from_its_limit():
    scope = Scope("out", [Feature("pixel size", "0.4 mm", "0.5 to 1.5 mm", "out", 1.53)], 1.49, [1.49])
    assert "out, score 1.53 of at most 1.49" in scope.line


def test_at_most_five_percent_are_above_the_limit():
    assert limit_of([]) == 1
    assert limit_of([3.0, 0.0, 0.5]) == 3  # too few to show 5 %
    assert limit_of(range(40)) == 38  # above it is 1 of 40, and 2 of 41 where one more is
    assert limit_of([one / 100 for one in range(40)]) == 1
