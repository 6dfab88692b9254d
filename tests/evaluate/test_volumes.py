"""Evaluation of volumes: true neighbors, the noise of single slices, parameters by noise level, the oracle."""

import csv
import json
import runpy
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from evaluate_command import run
from monai.data import MetaTensor
from phantoms import body_phantom, ct_series, ct_volume, pet_series
from scipy.ndimage import gaussian_filter
from tiny_bundle import NAME, edit_json, make_tiny_bundle

from medrestore_monai.bundles import find_bundle
from medrestore_monai.classical import Classical, noise_level
from medrestore_monai.dicom import read_series, suv_factor
from medrestore_monai.evaluate import Candidate, load_volume, open_model, open_source
from medrestore_monai.evaluate.volumes import Slice, Volume

SIZE = (44, 36)
SPACING = (1.0, 1.0, 2.0)
PET = "pet_synthesis_restore_rwkv"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Tiny bundles without tuned parameters of their own."""
    folder = tmp_path_factory.mktemp("bundles")
    for name in (NAME, PET):
        (make_tiny_bundle(folder, name) / "docs" / "tuned.json").unlink(missing_ok=True)
    return folder


@pytest.fixture(autouse=True)
def _found(bundles, monkeypatch):
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(bundles))


def scores(folder, region="whole slice"):
    """PSNR by method, volume and slice."""
    with (folder / "slices.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["region"] == region]
    return {(row["method"], row["volume"], int(row["slice"])): float(row["psnr"]) for row in rows}


def mean(folder, method):
    return np.mean([value for (name, _, _), value in scores(folder).items() if name == method])


def about(folder):
    return json.loads((folder / "table.json").read_text())["about"]


def write_tuned(path, baselines, levels=(1.0,), modality="CT"):
    part = {"task": "denoising", "noise_levels": list(levels), "baselines": baselines}
    path.write_text(json.dumps({"version": 1, "modalities": {modality: part}}))
    return path


def write_nifti(path, volume, spacing):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(volume.astype(np.float32), np.diag([*spacing, 1.0]))
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def write_pairs(folder, slices=7, noises=(40.0, 40.0), spacing=SPACING):
    """NIfTI pairs in HU whose noise is independent from slice to slice."""
    rng = np.random.default_rng(0)
    pairs = []
    for number, noise in enumerate(noises):
        clean = np.repeat(body_phantom(SIZE)[..., None].clip(-160, 240), slices, axis=-1) + 2 * number
        noisy = clean + noise * rng.standard_normal(clean.shape)
        write_nifti(folder / "LQ" / f"p{number}.nii.gz", noisy, spacing)
        write_nifti(folder / "HQ" / f"p{number}.nii.gz", clean, spacing)
        pairs.append((noisy.astype(np.float32), clean.astype(np.float32)))
    return pairs


def psnr(image, clean):
    error = np.clip(image.astype(np.float64), -160, 240) - np.clip(clean, -160, 240)
    return 10 * np.log10(400**2 / (error**2).mean())


@pytest.mark.slow
def test_methods_in_3d_see_true_neighbors_in_mm(tmp_path):
    pairs = write_pairs(tmp_path / "data")
    values = {"gaussian": {"sigma": 0.6}, "gaussian_3d": {"sigma_mm": 0.9}}
    tuned = write_tuned(tmp_path / "tuned.json", values)
    base = ["--data", tmp_path / "data", "--layout", "paired", "--tuned", tuned, "-o", tmp_path / "out"]
    run(*base, "--baselines", "gaussian,gaussian_3d")
    found = scores(tmp_path / "out")
    for number, (noisy, clean) in enumerate(pairs):
        smooth = gaussian_filter(noisy.clip(-1024, 3072), (0.9, 0.9, 0.45), mode="nearest")
        for z in range(clean.shape[-1]):
            # rounded to 0.01 dB
            assert found["gaussian_3d", f"p{number}.nii.gz", z] == pytest.approx(
                psnr(smooth[..., z], clean[..., z]), abs=0.0052
            )


@pytest.mark.slow
def test_3d_beats_2d_where_the_noise_of_slices_is_independent(tmp_path):
    write_pairs(tmp_path / "data", spacing=(1.0, 1.0, 0.5))
    base = ["--data", tmp_path / "data", "--layout", "paired", "--oracle", "-o", tmp_path / "out"]
    run(*base, "--baselines", "gaussian,total_variation,gaussian_3d,total_variation_3d")
    best = {name: mean(tmp_path / "out", f"{name} (oracle)") for name in ("gaussian", "total_variation")}
    for name, value in best.items():
        assert mean(tmp_path / "out", f"{name}_3d (oracle)") > value + 1


def opened(data, settings=None):
    bundle = find_bundle(NAME)
    return open_model(Candidate(NAME, bundle), "CT", data, "cpu", settings or {}, {"part": "all", "seed": 3})


@pytest.mark.slow
def test_slices_of_a_volume_have_the_noise_of_single_slices(tmp_path):
    ct_series(tmp_path / "data" / "p0", slices=5, size=SIZE)
    model = opened(tmp_path / "data")
    source = open_source(model, tmp_path / "data", "clean", "all", False, None)
    (listed,) = source.images()
    volume = load_volume(source, listed, model.scaling, whole=True)
    assert [one.number for one in volume.slices] == [0, 1, 2, 3, 4]
    assert volume.stacks == [range(5)]
    assert volume.spacing == pytest.approx((0.75, 0.75, 2.5))
    alone = [source(item) for item in source.items]
    for one, case in zip(volume.slices, alone, strict=True):
        assert torch.equal(one.case["image"].as_tensor(), case["image"].as_tensor())
    assert not torch.equal(volume.slices[0].case["image"], volume.slices[1].case["image"])
    together = volume.stack(range(1, 4), scaled=False)
    assert torch.equal(together[..., 1].as_tensor(), alone[2]["image"].as_tensor())
    expected = np.stack([(case["image"].numpy() + 1024) / 4096 for case in alone], axis=-1)
    assert volume.level == pytest.approx(noise_level(expected), rel=1e-4)


@pytest.mark.slow
def test_a_limit_changes_what_is_scored_and_no_score(tmp_path):
    for patient in ("p1", "p2"):
        ct_series(tmp_path / "data" / patient, slices=4, size=SIZE, series=patient)
    tuned = write_tuned(tmp_path / "tuned.json", {"gaussian": {"sigma": [0.4, 2.0]}}, levels=(0.001, 0.02))
    base = ["--data", tmp_path / "data", "--tuned", tuned, "--baselines", "gaussian,gaussian_3d,total_variation_3d"]
    run(*base, "-o", tmp_path / "all")
    run(*base, "-o", tmp_path / "some", "--limit", 3)
    everything, some = scores(tmp_path / "all"), scores(tmp_path / "some")
    assert {(volume, number) for _, volume, number in some} == {("p1", 0), ("p1", 2), ("p2", 1)}
    assert some == {key: everything[key] for key in some}
    assert about(tmp_path / "some")["slices listed"] == {"CT": 3}
    assert about(tmp_path / "some")["noise levels"] == about(tmp_path / "all")["noise levels"]


@pytest.mark.slow
def test_parameters_follow_the_noise_level_of_each_volume(tmp_path):
    pairs = write_pairs(tmp_path / "data", noises=(20.0, 80.0))
    levels = [noise_level((noisy[None] + 1024) / 4096) for noisy, _ in pairs]
    assert levels[1] > 2 * levels[0]
    base = ["--data", tmp_path / "data", "--layout", "paired", "--baselines", "gaussian_3d", "-o"]
    # the ends of the table are the levels themselves, so that each volume gets one of the values
    tuned = write_tuned(tmp_path / "both.json", {"gaussian_3d": {"sigma_mm": [0.5, 1.5]}}, levels=levels)
    run(*base, tmp_path / "both", "--tuned", tuned)
    both = scores(tmp_path / "both")
    for number, sigma in enumerate((0.5, 1.5)):
        one = write_tuned(tmp_path / f"{sigma}.json", {"gaussian_3d": {"sigma_mm": sigma}})
        run(*base, tmp_path / f"{sigma}", "--tuned", one)
        same = {key: value for key, value in scores(tmp_path / f"{sigma}").items() if key[1] == f"p{number}.nii.gz"}
        assert {key: both[key] for key in same} == pytest.approx(same, abs=0.011)
    described = about(tmp_path / "both")
    assert described["classical baselines"]["CT"]["gaussian_3d"]["sigma_mm"] == [0.5, 1.5]
    assert described["noise levels"]["CT"] == pytest.approx(levels, rel=0.01)


@pytest.mark.slow
def test_the_bundle_brings_its_own_table_and_a_file_goes_over_it(tmp_path, bundles, monkeypatch):
    shutil.copytree(bundles, tmp_path / "bundles")
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(tmp_path / "bundles"))
    write_pairs(tmp_path / "data")
    base = ["--data", tmp_path / "data", "--layout", "paired", "--baselines", "gaussian", "-o"]
    run(*base, tmp_path / "usual")
    assert about(tmp_path / "usual")["tuned by"] == {"CT": "defaults"}
    write_tuned(tmp_path / "bundles" / NAME / "docs" / "tuned.json", {"gaussian": {"sigma": 1.7}})
    run(*base, tmp_path / "own")
    assert about(tmp_path / "own")["tuned by"] == {"CT": f"{NAME}/docs/tuned.json"}
    assert about(tmp_path / "own")["classical baselines"] == {"CT": {"gaussian": {"sigma": 1.7}}}
    run(*base, tmp_path / "over", "--tuned", write_tuned(tmp_path / "mine.json", {"gaussian": {"sigma": 0.5}}))
    assert about(tmp_path / "over")["classical baselines"] == {"CT": {"gaussian": {"sigma": 0.5}}}
    other = write_tuned(tmp_path / "mr.json", {"gaussian": {"sigma": 0.5}}, modality="MR")
    assert (
        "mr.json has no parameters for CT, only for MR" in run(*base, tmp_path / "x", "--tuned", other, code=2).stderr
    )
    (tmp_path / "bundles" / NAME / "docs" / "tuned.json").write_text("{}")
    assert "is no file of tuned baselines: version 1" in run(*base, tmp_path / "x", code=2).stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_the_oracle_is_the_best_for_each_volume_and_no_rival(tmp_path):
    pairs = write_pairs(tmp_path / "data", noises=(20.0, 80.0))
    base = ["--data", tmp_path / "data", "--layout", "paired", "--baselines", "gaussian,gaussian_3d", "-o"]
    run(*base, tmp_path / "out", "--oracle", "--against", "gaussian (oracle)")
    with (tmp_path / "out" / "table.csv").open(newline="") as file:
        methods = list(dict.fromkeys(row["method"] for row in csv.DictReader(file)))
    expected = ["input", "gaussian", "gaussian_3d", "gaussian (oracle)", "gaussian_3d (oracle)", NAME]
    assert methods == expected
    found = scores(tmp_path / "out")
    for number, (noisy, clean) in enumerate(pairs):
        best = 0
        for sigma in np.geomspace(0.3, 5, 60):
            smooth = gaussian_filter(noisy.clip(-1024, 3072), (sigma, sigma, 0), mode="nearest")
            best = max(best, np.mean([psnr(smooth[..., z], clean[..., z]) for z in range(clean.shape[-1])]))
        ours = [found["gaussian (oracle)", f"p{number}.nii.gz", z] for z in range(clean.shape[-1])]
        assert best - 0.3 < np.mean(ours) < best + 0.01
    assert "oracle" not in "".join(json.loads((tmp_path / "out" / "table.json").read_text())["notes"])
    assert "p-values are against" in run(*base, tmp_path / "x", "--against", "gaussian (oracle)", code=2).stderr


@pytest.mark.slow
def test_slices_with_gaps_are_no_neighbors(tmp_path):
    volume = ct_volume(6, SIZE, noise=0)
    noisy = np.rint(volume + 30 * np.random.default_rng(0).standard_normal(volume.shape)).clip(-1024, 3071)
    for name, one in (("LQ", noisy), ("HQ", volume)):
        ct_series(tmp_path / "data" / name / "p0", slices=6, volume=one, skip=(2,), series="a")
    tuned = write_tuned(
        tmp_path / "tuned.json",
        {"gaussian": {"sigma": 1.0}, "gaussian_3d": {"sigma_mm": 0.75}},  # pixels of 0.75 mm
    )
    base = ["--data", tmp_path / "data", "--layout", "paired", "--tuned", tuned, "--allow-gaps"]
    run(*base, "--baselines", "gaussian,gaussian_3d", "-o", tmp_path / "out")
    found = scores(tmp_path / "out")
    assert len(found) == 4 * 5
    for (method, name, number), value in found.items():
        if method == "gaussian_3d":
            assert value == pytest.approx(found["gaussian", name, number], abs=0.011)


def fake_slice(number, regular=True, size=SIZE):
    meta = {"regular": regular, "intensity_range": [0.0, 1.0], "affine": torch.diag(torch.tensor([1.0, 1, 4, 1]))}
    image = MetaTensor(torch.full((1, *size), float(number)), meta=meta)
    return Slice(number, {"image": image, "name": "a"}, {"image": image}, is_scored=True)


def test_stacks_end_at_missing_slices_and_other_sizes():
    numbers = [0, 1, 2, 4, 5]
    assert Volume([fake_slice(n) for n in numbers]).stacks == [range(3), range(3, 5)]
    assert Volume([fake_slice(n, regular=False) for n in numbers]).stacks == [range(n, n + 1) for n in range(5)]
    mixed = Volume([fake_slice(0), fake_slice(1), fake_slice(2, size=(8, 9))])
    assert mixed.stacks == [range(2), range(2, 3)]
    assert mixed.spacing == (1.0, 1.0, 4.0)
    assert Volume([]).scored == []


def test_a_perfect_slice_has_a_score_that_can_be_averaged():
    slices = [fake_slice(0), fake_slice(1)]
    for one in slices:
        one.case["label"] = one.case["image"].clone()
    volume = Volume(slices)
    off = {0: slices[0].label, 1: slices[1].label - 0.1}
    assert volume.psnr(off.__getitem__, lambda one: one.range) == pytest.approx((200 + 20) / 2)


@pytest.mark.slow
def test_a_slice_that_cannot_be_used_is_left_out_and_parts_the_volume(tmp_path):
    ct_series(tmp_path / "data" / "p0", slices=5, size=SIZE)
    model = opened(tmp_path / "data")
    source = open_source(model, tmp_path / "data", "clean", "all", False, None)
    (listed,) = source.images()
    scaling = model.scaling

    def fails(item):
        if item["slice"] == 1:
            raise ValueError("is broken")
        return scaling(item)

    errors = []
    volume = load_volume(source, listed, fails, whole=True, report=errors.append)
    assert [str(error) for error in errors] == ["p0, slice 1: is broken"]
    assert volume.stacks == [range(1), range(1, 4)]
    with pytest.raises(ValueError, match="p0, slice 1: is broken"):
        load_volume(source, listed, fails, whole=True)


@pytest.mark.slow
def test_a_network_with_context_gets_slabs_and_each_slice_once(tmp_path, bundles, monkeypatch):
    """A network in 2D scores the same with and without neighbors, whichever slices are asked for."""
    shutil.copytree(bundles, tmp_path / "bundles")

    def sees_neighbors(config):
        config["context"] = 1
        config["network_def"]["context"] = config["inferer"]["context"] = 0

    edit_json(tmp_path / "bundles" / NAME / "configs" / "inference.json", sees_neighbors)
    ct_series(tmp_path / "data" / "p0", slices=7, size=SIZE)
    base = ["--data", tmp_path / "data", "--baselines", "none", "-o"]
    run(*base, tmp_path / "plain")
    plain = scores(tmp_path / "plain")
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(tmp_path / "bundles"))
    run(*base, tmp_path / "all", "--trust-bundle")
    run(*base, tmp_path / "some", "--limit", 2, "--trust-bundle")
    assert scores(tmp_path / "all") == plain
    some = scores(tmp_path / "some")
    assert some == {key: plain[key] for key in some}
    assert about(tmp_path / "some")["bundles"][NAME]["settings"]["context"] == 1


@pytest.mark.slow
def test_neighbors_reach_the_network(tmp_path, monkeypatch):
    ct_series(tmp_path / "data" / "p0", slices=7, size=SIZE)
    model = opened(tmp_path / "data")
    model.parser.update({"context": 2})
    source = open_source(model, tmp_path / "data", "clean", "all", False, 2)
    (listed,) = source.images()
    volume = load_volume(source, listed, model.scaling, whole=True)
    given = []

    def restore(self, item):
        given.append(item["image"])
        return item["image"].as_tensor()

    from medrestore_monai.evaluate.restorations import by_model

    monkeypatch.setattr(type(model), "restore", restore)
    prepared = by_model(model, volume)
    assert volume.scored == [0, 3]
    assert [tuple(image.shape) for image in given] == [(1, *SIZE, 6)]  # 0 with 2 after, 3 with 2 on each side
    assert torch.equal(prepared(3), volume.slices[3].case["image"].as_tensor())
    assert given[0].meta["modality"] == "CT"


@pytest.mark.slow
def test_pairs_of_pet_series_are_scored_in_suv(tmp_path):
    clean = np.clip(ct_volume(3, SIZE, noise=0) + 1000, 0, None) * 10  # Bq/ml
    noisy = np.clip(clean + 700 * np.random.default_rng(0).standard_normal(clean.shape), 0, None)
    for name, one in (("LQ", noisy), ("HQ", clean)):
        pet_series(tmp_path / "data" / name / "p0", slices=3, volume=one, slopes=[1.0] * 3)
    base = ["--bundle", PET, "--data", tmp_path / "data", "--layout", "paired", "--baselines", "gaussian_3d"]
    run(*base, "-o", tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["table"]
    given = next(row for row in rows if row["method"] == "input")
    factor = suv_factor(read_series(tmp_path / "data" / "HQ" / "p0").datasets)
    error = factor * (np.rint(noisy) - np.rint(clean))
    expected = np.mean([np.sqrt(np.mean(error[..., z] ** 2)) for z in range(3)])
    assert (factor * clean).max() < 20
    assert given["rmse"] == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_methods_without_a_need_read_single_slices(tmp_path, monkeypatch):
    ct_series(tmp_path / "data" / "p0", slices=5, size=SIZE)
    read = []
    loaded = load_volume

    def spy(source, listed, scaling, whole, report=None):
        volume = loaded(source, listed, scaling, whole, report)
        read.append([one.number for one in volume.slices])
        return volume

    monkeypatch.setattr("medrestore_monai.evaluate.run.load_volume", spy)
    base = ["--data", tmp_path / "data", "--limit", 1, "-o"]
    run(*base, tmp_path / "a", "--baselines", "gaussian")
    run(*base, tmp_path / "b", "--baselines", "gaussian_3d")
    assert read == [[0], [0, 1, 2, 3, 4]]
    assert Classical("gaussian_3d", {"sigma_mm": 1.0}).needs_neighbors


def tune(monkeypatch, *options):
    script = Path(__file__).parents[2] / "scripts" / "calibrate" / "tune_classical.py"
    monkeypatch.setattr(sys, "argv", [str(part) for part in (script, *options)])
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.slow
def test_tuning_writes_a_monotone_table_and_keeps_other_modalities(tmp_path, monkeypatch):
    for patient in ("p1", "p2", "p3"):
        ct_series(tmp_path / "data" / patient, slices=4, size=(160, 150), series=patient)
    output = write_tuned(tmp_path / "tuned.json", {"bicubic": {"factor": 4.0}}, modality="MR")
    base = ["--bundle", NAME, "--data", tmp_path / "data", "-o", output]
    tune(monkeypatch, *base, "--methods", "gaussian,gaussian_3d", "--levels", "dose=0.5,0.02", "--slices", 4)
    content = json.loads(output.read_text())["modalities"]
    assert content["MR"]["baselines"] == {"bicubic": {"factor": 4.0}}
    found = content["CT"]
    assert found["tuned_on"]["volumes"] == 4  # two patients train, at two doses
    assert found["tuned_on"]["settings"] == [{"dose": 0.5}, {"dose": 0.02}]
    low, high = found["noise_levels"]
    assert high > 1.5 * low
    for name, parameter in (("gaussian", "sigma"), ("gaussian_3d", "sigma_mm")):
        weak, strong = found["baselines"][name][parameter]
        assert weak < strong
        assert found["psnr"][name][1] > found["psnr"]["input"][1] + 1
    run("--data", tmp_path / "data", "--tuned", output, "--baselines", "gaussian,gaussian_3d", "-o", tmp_path / "out")
    assert about(tmp_path / "out")["classical baselines"]["CT"]["gaussian"]["noise levels"] == [low, high]


def test_tuning_leaves_a_file_of_another_kind_alone(tmp_path, monkeypatch):
    ct_series(tmp_path / "data" / "p1", slices=2, size=SIZE)
    output = tmp_path / "tuned.json"
    output.write_text('{"dose": 0.1}')
    with pytest.raises(ValueError, match="no file of tuned baselines"):
        tune(monkeypatch, "--bundle", NAME, "--data", tmp_path / "data", "--part", "all", "-o", output)
    assert output.read_text() == '{"dose": 0.1}'
