"""What can be set of a bundle is what its metadata declares, and bad values end with one sentence each."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import BUNDLES

from medrestore_monai.bundles.settings import (
    INTERNAL,
    SHARED,
    Setting,
    check_values,
    config_values,
    declared_modalities,
    declared_settings,
    declared_task,
    parse_settings,
    settings_in,
)

SHIPPED = sorted(path.parents[1] for path in BUNDLES.glob("*/configs/metadata.json"))


def read(root, name):
    return json.loads((root / "configs" / f"{name}.json").read_text())


def settings_of(name):
    return declared_settings(read(BUNDLES / name, "metadata"))


CT = settings_of("ct_denoise_restore_rwkv")
ALL = settings_of("all_in_one_restore_rwkv")


@pytest.mark.parametrize("root", SHIPPED, ids=lambda root: root.name)
@pytest.mark.parametrize("name", ["inference", "evaluate"])
def test_every_plain_value_of_a_configuration_is_declared_or_internal(root, name):
    known = {*INTERNAL, *(one.key.split("::")[0] for one in declared_settings(read(root, "metadata")).values())}
    for key, value in read(root, name).items():
        plain = value is None or value == {} or isinstance(value, bool | int | float | str)
        if plain and not str(value).startswith(("$", "@")):
            assert key in known, f"{key} of {root.name} is neither declared nor internal"


@pytest.mark.parametrize("root", SHIPPED, ids=lambda root: root.name)
def test_every_declared_setting_is_in_the_configuration_with_a_value_it_takes(root):
    settings = declared_settings(read(root, "metadata"))
    configurations = {"evaluation": read(root, "evaluate")}
    for setting in settings.values():
        configuration = configurations.get(setting.when, read(root, "inference"))
        if setting.name == "modality" and len(declared_modalities(read(root, "metadata"))) == 1:
            continue  # the configuration says it where images are loaded
        place, *inner = setting.key.split("::")
        assert place in configuration
        default = None if inner else configuration[place]
        if default is not None and not str(default).startswith(("$", "@")):
            assert setting.check(default) == default


@pytest.mark.parametrize("root", SHIPPED, ids=lambda root: root.name)
def test_a_bundle_declares_a_task_for_each_modality(root):
    metadata = read(root, "metadata")
    modalities = declared_modalities(metadata)
    assert metadata["network_data_format"]["inputs"]["image"]["modality"].split(",")[0] == modalities[0]
    tasks = {declared_task(metadata, modality) for modality in modalities}
    named = {"denoising": "denois", "deblurring": "deblur", "super-resolution": "super", "synthesis": "synthesis"}
    if len(tasks) == 1:
        assert named[tasks.pop()] in root.name


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"strength": "0.5"}, {"strength": 0.5}),
        ({"strength": np.float32(0.5), "self_ensemble": 8.0}, {"strength": 0.5, "self_ensemble": 8}),
        ({"tile": "Auto"}, {"tile": "auto"}),
        ({"tile": "136", "halo": 64}, {"tile": 136, "halo": 64}),
        ({"amp": "yes", "allow_gaps": False}, {"amp": True, "allow_gaps": False}),
        ({"mean_hu": "OFF", "precision": "BFloat16"}, {"mean_hu": "off", "precision": "bfloat16"}),
        ({"hu_offset": None, "strength": 1}, {"strength": 1.0}),
        ({"device": "cuda:1", "series_uid": "1.2.3"}, {"device": "cuda:1", "series_uid": "1.2.3"}),
        ({"weights": "$exit()"}, {"weights": Path("$exit()")}),
        ({"network_def::dim": 8, "network_def#a::b": "x"}, {"network_def::dim": 8, "network_def#a::b": "x"}),
    ],
)
def test_values_come_in_with_their_types(given, expected):
    found = check_values(CT, given)
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {k: type(v) for k, v in expected.items()}


@pytest.mark.parametrize(("word", "modality"), [("PET", "PT"), ("mri", "MR"), ("ct", "CT"), ("pt", "PT")])
def test_modalities_are_understood_as_people_type_them(word, modality):
    assert check_values(ALL, {"modality": word}) == {"modality": modality}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("strength", 1.5, r"^strength must be a number in \[0, 1\], got 1.5\.$"),
        ("strength", True, "strength must be a number"),
        ("strength", [1], "strength must be a number"),
        ("strength", "@weights", "strength must be a number"),
        ("strength", float("nan"), "strength must be a number"),
        ("dose", 0, r"dose must be a number in \(0, 1\], got 0\.$"),
        ("held_back", 1, r"in \(0, 1\), got 1\.$"),
        ("self_ensemble", 3, "self_ensemble must be 1, 2, 4 or 8, got 3"),
        ("self_ensemble", True, "self_ensemble must be 1, 2, 4 or 8, got True"),
        ("tile", 12.5, "tile must be auto or a whole number of at least 1, got 12.5"),
        ("mean_hu", "corect", "must be check, correct or off, got 'corect'. Did you mean correct?"),
        ("mean_hu", 1, "must be check, correct or off, got 1"),
        ("amp", "$True", "amp must be true or false, got"),
        ("amp", 2, "amp must be true or false, got 2"),
        ("device", "$exit()", "device must be auto, cpu, cuda, cuda:N or mps"),
        ("series_uid", "1.2.a", "digits and dots only"),
        ("strenght", 1, "there is no setting strenght. Did you mean strength?"),
        ("output_dir", "x", "there is no setting output_dir"),
        ("overwrite", True, "there is no setting overwrite"),
        ("suv_factor", 1, "`suv_factor` is for PT, not for CT"),
        ("network_def::_target_", "os.system", "there is no setting network_def::_target_"),
        ("network_def::dim", "$1", "network_def::dim must be a number, true, false or a plain text"),
        ("network_def::dim", float("inf"), "network_def::dim must be a number"),
        ("preprocessing::transforms", 1, "there is no setting preprocessing::transforms"),
        ("modality", "MR", "modality must be CT, got 'MR'"),
        ("injection_time", "100000", "`injection_time` is for PT, not for CT"),
    ],
)
def test_a_bad_value_ends_with_one_sentence(name, value, message):
    with pytest.raises(ValueError, match=message):
        check_values(CT, {name: value})


def test_a_setting_is_for_its_modality():
    with pytest.raises(ValueError, match="`hu_offset` is for CT, not for MR"):
        check_values(ALL, {"modality": "mri", "hu_offset": 0})
    # a step for one modality does nothing to another
    assert check_values(ALL, {"modality": "mri", "mean_hu": "off"}) == {"modality": "MR", "mean_hu": "off"}


@pytest.mark.parametrize("value", ["9:45", "256100", "96161", "20201301100000", True])
def test_an_injection_has_a_time_of_the_clock(value):
    with pytest.raises(ValueError, match="injection_time must be HHMMSS or YYYYMMDDHHMMSS, got"):
        check_values(ALL, {"injection_time": value})
    assert check_values(ALL, {"injection_time": 235959}) == {"injection_time": "235959"}


def test_each_bad_value_has_its_sentence():
    with pytest.raises(ValueError, match=r"^strength must .*\. tile must .*\.$"):
        check_values(CT, {"strength": 2, "halo": 1, "tile": 0})


def test_the_configuration_gets_its_own_keys_and_nothing_that_it_knows():
    values = check_values(ALL, {"suv_factor": 2, "patient_weight": 70, "modality": "PET", "device": "cpu"})
    assert config_values(ALL, values) == {
        "suv::factor": 2.0,
        "suv::weight": 70.0,
        "modality": "PT",
        "device": "$torch.device('cpu')",
    }
    assert config_values(CT, {"modality": "CT", "device": "auto", "network_def::dim": 8}) == {"network_def::dim": 8}
    pictures = settings_of("rgb_deblur_mlff_unet")
    assert config_values(pictures, check_values(pictures, {"modality": "rgb"})) == {}
    with pytest.raises(ValueError, match="suv is set by its parts: suv_factor, "):
        check_values(ALL, {"suv": {"factor": 2}})


def test_only_what_a_configuration_has_can_be_set():
    root = BUNDLES / "ct_denoise_restore_rwkv"
    config = read(root, "inference")
    inference, evaluation = (settings_in(CT, one) for one in (config, {**config, **read(root, "evaluate")}))
    assert "dose" not in inference
    assert {"slab", "self_ensemble"} <= set(inference)
    assert {"dose", "seed", "self_ensemble"} <= set(evaluation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("medrestore"), "has no block 'medrestore'"),
        (lambda data: data["medrestore"].pop("task"), "has no block 'medrestore' with task"),
        (lambda data: data["medrestore"].update(modalities=["US"]), "must be of CT, MR, PT, RGB"),
        (
            lambda data: data["medrestore"].update(settings={"a": {"kind": "float"}}),
            "the setting a in metadata.json has",
        ),
        (
            lambda data: data["medrestore"].update(settings={"a": {"kind": "x", "help": ""}}),
            "kind of the setting a must",
        ),
        (
            lambda data: data["medrestore"].update(settings={"a": {"kind": "int", "help": "", "range": "1..2"}}),
            "must be an interval",
        ),
        (
            lambda data: data["medrestore"].update(settings={"a": {"kind": "choice", "help": ""}}),
            "a choice and has no choices",
        ),
        (
            lambda data: data["medrestore"].update(settings={"a": {"kind": "text", "help": "", "pattern": "("}}),
            "got kind, help, pattern",
        ),
    ],
)
def test_a_broken_declaration_is_one_sentence(change, message):
    metadata = read(BUNDLES / "ct_denoise_restore_rwkv", "metadata")
    change(metadata)
    with pytest.raises(ValueError, match=message):
        declared_settings(metadata)


def test_a_task_that_is_not_declared_is_refused():
    metadata = read(BUNDLES / "all_in_one_restore_rwkv", "metadata")
    assert declared_task(metadata, "MR") == "super-resolution"
    with pytest.raises(ValueError, match=r"task of RGB in metadata\.json must be one of denoising"):
        declared_task(metadata, "RGB")


def test_texts_become_numbers_and_switches():
    assert parse_settings(["dose=0.1", "mean_hu=off", "amp=true", "a=null", "b=[1]", "c==="]) == {
        "dose": 0.1,
        "mean_hu": "off",
        "amp": True,
        "a": "null",
        "b": "[1]",
        "c": "==",
    }
    with pytest.raises(ValueError, match="a setting is NAME=VALUE, got 'dose'"):
        parse_settings(["dose"])


def test_what_clients_of_a_server_may_set_is_of_a_call_and_no_path():
    assert not [one.name for one in SHARED if one.served and one.kind == "path"]
    assert Setting("a", "int", "x").served
    assert not Setting("a", "int", "x", "opening").served
