"""The tuned baselines that bundles ship: methods of the task, parameters that exist, and something gained."""

import json

import pytest
from tiny_bundle import BUNDLES

from medrestore_monai.bundles import find_bundle
from medrestore_monai.classical import BASELINES, KNOWN, read_tuned
from medrestore_monai.evaluate import choose_baselines, tuned_parameters

SHIPPED = sorted(path.parents[1].name for path in BUNDLES.glob("*/docs/tuned.json"))
ALL_IN_ONE = "all_in_one_restore_rwkv"
SINGLE = {
    "CT": "ct_denoise_restore_rwkv",
    "MR": "mri_superresolution_restore_rwkv",
    "PT": "pet_synthesis_restore_rwkv",
}


def parts(name):
    return json.loads((BUNDLES / name / "docs" / "tuned.json").read_text())["modalities"]


def test_tables_were_found():
    assert {ALL_IN_ONE, SINGLE["CT"], SINGLE["PT"]} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_methods_of_the_task_are_tuned_and_chosen(name):
    bundle = find_bundle(str(BUNDLES / name))
    assert set(parts(name)) <= set(bundle.modalities)
    for modality in parts(name):
        tuned, origin = tuned_parameters(bundle, modality, None)
        task = bundle.task(modality)
        assert origin == f"{name}/docs/tuned.json"
        assert tuned
        assert set(tuned) <= set(BASELINES[task])
        chosen = choose_baselines("auto", tuned, task)
        assert list(chosen) == list(BASELINES[task])
        for method, parameters in tuned.items():
            assert set(parameters.values) == {one for one in BASELINES[task][method] if one not in KNOWN}
            assert {one: chosen[method].values[one] for one in parameters.values} == dict(parameters.values)


@pytest.mark.parametrize("name", SHIPPED)
def test_tuning_gained_and_the_file_says_on_what(name):
    for modality, part in parts(name).items():
        assert part["tuned_on"]["data"]
        assert part["tuned_on"]["slices"] > 0
        assert set(part["psnr"]) == {"input", *part["baselines"]}
        best = [max(values) for values in zip(*part["psnr"].values(), strict=True)]
        assert len(best) == len(part["noise_levels"])
        assert all(one > given for one, given in zip(best, part["psnr"]["input"], strict=True)), modality


@pytest.mark.parametrize("modality", SINGLE)
def test_one_network_for_several_modalities_has_the_tables_of_theirs(modality):
    if SINGLE[modality] in SHIPPED:
        shared = read_tuned(BUNDLES / ALL_IN_ONE / "docs" / "tuned.json")
        assert shared[modality] == read_tuned(BUNDLES / SINGLE[modality] / "docs" / "tuned.json")[modality]
