"""The three bundles for deblurring: their recipes run, their files come back as they were, their tiles fit together."""

import importlib
import json
import math
import sys
from pathlib import Path

import monai
import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from miniatures import AFF_NAME, MED_NAME, MLFF_NAME, pixels, write_clean, write_recipe_data
from monai.bundle import ConfigParser
from phantoms import ct_series
from PIL import Image
from scipy.ndimage import convolve
from tiny_bundle import BUNDLES
from tiny_deblurring import TINY, make_tiny_deblurring
from typer.testing import CliRunner

from medrestore_monai.bundles import find_bundle
from medrestore_monai.cli import app
from medrestore_monai.dicom import read_series
from medrestore_monai.evaluate import Candidate, known_psf, open_model, open_source
from medrestore_monai.images import read_image
from medrestore_monai.inferers import SliceWiseInferer, tiling_error
from medrestore_monai.networks.aff_unet_rwkv import AFF
from medrestore_monai.networks.mlff_unet import MLFF, MRFAB
from medrestore_monai.restorer import restore
from medrestore_monai.transforms.blur.kernels import motion_kernel

PARAMETERS = {AFF_NAME: (0.56e6, 2.22e6), MLFF_NAME: (0.70e6, 6.05e6), MED_NAME: (2.12e6, 8.03e6)}  # shipped, paper
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "experiments"


@pytest.fixture(scope="module", params=TINY)
def bundle(request, tmp_path_factory):
    return make_tiny_deblurring(tmp_path_factory.mktemp("bundles"), request.param)


def parsed(root, *names, **options):
    parser = ConfigParser()
    parser.read_config([str(root / "configs" / f"{name}.json" if isinstance(name, str) else name) for name in names])
    parser.update({"bundle_root": str(root), "device": "$torch.device('cpu')", "num_workers": 0, **options})
    return parser


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_the_shipped_and_the_papers_size(name):
    for overlays, expected in zip(([], ["base"]), PARAMETERS[name], strict=True):
        network = parsed(BUNDLES / name, "train", *overlays).get_parsed_content("network_def")
        assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_the_papers_recipe_gives_batches_that_teach(bundle, tmp_path):
    data = write_recipe_data(bundle.name, tmp_path)
    parser = parsed(bundle, "train", dataset_dir=str(data), batch_size=2, output_dir=str(tmp_path / "out"))
    side = {AFF_NAME: 28, MLFF_NAME: 256, MED_NAME: 128}[bundle.name]
    batch = next(iter(parser.get_parsed_content("train#dataloader")))
    network, loss = parser.get_parsed_content("network"), parser.get_parsed_content("loss")
    for key in ("image", "label"):
        assert batch[key].shape == (2, 3, side, side)
        assert 0 <= float(batch[key].min()) < float(batch[key].max()) <= 1
    assert float((batch["image"] - batch["label"]).abs().mean()) > 0.005
    loss(network(batch["image"]), batch["label"]).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    checked = parser.get_parsed_content("validate#dataset")[0]
    assert checked["image"].shape == checked["label"].shape
    parser.get_parsed_content("scheduler")


@pytest.mark.slow
def test_the_overlay_for_a_cpu_trains(bundle, tmp_path):
    write_clean(tmp_path / "data")
    quick = {"max_epochs": 2, "epoch_length": 1, "val_interval": 1, "batch_size": 2, "crop_size": [48, 48]}
    places = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out"), "patch_size": [32, 32]}
    parser = parsed(bundle, "train", "train_cpu", **quick, **places, validation_size=[40, 40])
    try:
        parser.get_parsed_content("initialize")
        # the gray collection of one picture is drawn as often as the color one of three
        patients = [item["patient"] for item in parser.get_parsed_content("train#datalist")]
        assert sorted(patients) == ["blood_1"] * 3 + ["mr_2"] * 3
        parser.get_parsed_content("run")
    finally:
        monai.data.set_track_meta(True)
        monai.utils.set_determinism(None)
    assert json.loads((tmp_path / "out" / "model.json").read_text())["PSNR"] > 10
    network = TINY[bundle.name][0](**TINY[bundle.name][1])
    network.load_state_dict(torch.load(tmp_path / "out" / "model.pt", weights_only=True))


BLURS = ["linear_motion_blur", "bent_motion_blur", "gaussian_blur"]
BLURS += ["anisotropic_gaussian_blur", "defocus_blur", "varying_blur"]


@pytest.mark.slow
def test_the_overlay_for_all_blurs_starts_from_the_weights_and_keeps_their_moving_average(bundle, tmp_path):
    write_clean(tmp_path / "data")
    quick = {"max_epochs": 1, "epoch_length": 2, "val_interval": 1, "batch_size": 2, "crop_size": [64, 64]}
    places = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out"), "patch_size": [32, 32]}
    start = {"first_bundle": str(bundle), "validation_size": [40, 40], "scheduler#warmup_steps": 1}
    parser = parsed(bundle, "train", "train_cpu", "train_blur", **quick, **places, **start)
    try:
        parser.get_parsed_content("initialize")
        network = parser.get_parsed_content("network")
        shipped = torch.load(bundle / "models" / "model.pt", weights_only=True)
        assert all(torch.equal(value, shipped[name]) for name, value in network.state_dict().items())
        assert all(item["image"].shape == (3, 32, 32) for item in parser.get_parsed_content("train#dataset"))
        parser.get_parsed_content("run")
    finally:
        monai.data.set_track_meta(True)
        monai.utils.set_determinism(None)
    saved = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    trained = network.state_dict()
    moved = [name for name in saved if not torch.equal(trained[name], shipped[name])]
    assert moved
    for name in moved:  # the average of two steps of momentum 0.001 has hardly left the start
        far, near = (trained[name] - shipped[name]).abs().max(), (saved[name] - shipped[name]).abs().max()
        rounding = 1e-7 * shipped[name].abs().max()
        assert near <= 0.01 * far + rounding or name.endswith("num_batches_tracked")
    assert math.isfinite(json.loads((tmp_path / "out" / "model.json").read_text())["PSNR"])


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_all_blurs_are_drawn_with_noise_and_compressed_in_part(name, tmp_path):
    parser = parsed(BUNDLES / name, "train", "train_cpu", "train_blur")
    blur = parser.get_parsed_content("blur").set_random_state(0)
    drawn = [blur({"image": torch.full((3, 8, 8), 100.0)}) for _ in range(200)]
    counts = {record: sum(record in item for item in drawn) for record in BLURS}
    assert sum(counts.values()) == 200
    for record, share in zip(BLURS, parser.get("shares"), strict=True):
        assert counts[record] == pytest.approx(200 * share, abs=20)
    assert {item["jpeg"]["quality"] == 0 for item in drawn} == {True, False}
    assert all(item["jpeg"]["quality"] == 0 or 60 <= item["jpeg"]["quality"] <= 95 for item in drawn)
    assert all(0 <= item["sensor_noise"]["std"] <= 4 for item in drawn)
    # what is cut off after the blur is as wide as what a kernel reaches over the border
    margin = (parser.get("crop_size")[0] - parser.get("patch_size")[0]) // 2
    assert margin >= max(parser.get("length")[1], parser.get("width")[1]) / 2
    assert margin >= parser.get("radius")[1]
    assert parser.get("patch_size") == [128, 128]


@pytest.mark.slow
@pytest.mark.parametrize("blur", ["RandMotionBlurd", "RandPublishedMotionBlurd"])
def test_meddeblur_is_trained_on_full_pictures_blurred_and_then_scaled(blur, tmp_path):
    data = write_clean(tmp_path / "data", (300, 260))
    parser = parsed(BUNDLES / MED_NAME, "train", dataset_dir=str(data), noise=0, length=31, output_dir=str(tmp_path))
    parser["blur#transforms#0#_target_"] = f"medrestore_monai.transforms.{blur}"
    parser["blur#transforms#0#angle"] = 45
    made = parser.get_parsed_content("validate#dataset")[0]
    full = read_image(parser.get_parsed_content("validate#datalist")[0]["label"])[0].astype(np.float64)  # (C, X, Y)
    kernel = motion_kernel(31, 45, "length" if "Published" in blur else "sum")
    blurred = np.stack([convolve(plane, kernel, mode="mirror") for plane in full])
    scale = monai.transforms.Resize((128, 128), anti_aliasing=True)
    for key, expected in (("image", blurred), ("label", full)):
        np.testing.assert_allclose(made[key].numpy() * 255, scale(torch.as_tensor(expected)).numpy(), atol=0.2)


@pytest.mark.parametrize("overlay", ["unet", "srn"])
@pytest.mark.parametrize("name", TINY)
def test_networks_to_compare_with_take_the_place_of_ours(name, overlay, tmp_path):
    parser = parsed(BUNDLES / name, "train", "train_cpu", SCRIPTS / name / f"{overlay}.json", output_dir=str(tmp_path))
    network = parser.get_parsed_content("network")
    image = torch.rand(1, 3, 17, 33)
    assert network(image).shape == image.shape
    content = parser.get_parsed_content("loss")
    trained = network if overlay == "unet" or name != MED_NAME else network.all_scales
    assert content(trained(torch.rand(1, 3, 64, 64)), torch.rand(1, 3, 64, 64)).requires_grad


def run(bundle, source, output, **options):
    return restore(source, output, bundle, device="cpu", **options)


def write_pictures(folder):
    """Names with what must come back: shape and type as stored, and the mode of a PNG."""
    folder.mkdir()
    alpha = np.concatenate([pixels(33, 47, 3), np.full((33, 47, 1), 255, np.uint8)], axis=2)
    Image.fromarray(alpha).save(folder / "alpha.png")
    Image.fromarray(pixels(31, 18, 3)).save(folder / "small.png")
    Image.fromarray(pixels(40, 41)).save(folder / "gray.jpg", quality=95)
    Image.fromarray(pixels(21, 19, dtype=np.uint16)).save(folder / "gray16.png")
    tifffile.imwrite(folder / "color16.tif", pixels(35, 22, 3, dtype=np.uint16), photometric="rgb")
    Image.fromarray(pixels(1, 5, 3)).save(folder / "line.png")
    return folder


@pytest.mark.slow
def test_pictures_come_back_as_they_were_but_restored(bundle, tmp_path):
    source = write_pictures(tmp_path / "in")
    run(bundle, source, tmp_path / "out")
    run(bundle, source, tmp_path / "same", strength=0)
    for path in sorted(source.iterdir()):
        before, meta = read_image(path)
        after, meta_after = read_image(tmp_path / "out" / path.name)
        assert after.shape == before.shape
        assert meta_after["original_dtype"] == meta["original_dtype"]
        if path.suffix == ".png":
            assert Image.open(tmp_path / "out" / path.name).mode == Image.open(path).mode
        if path.name != "line.png":
            assert not np.array_equal(after, before), path.name
        if path.suffix != ".jpg":
            np.testing.assert_array_equal(read_image(tmp_path / "same" / path.name)[0], before)
    # all 16 bits are used: more values than 8 bit could hold
    assert len(np.unique(read_image(tmp_path / "out" / "color16.tif")[0])) > 300


@pytest.mark.slow
def test_a_gray_picture_is_restored_as_the_mean_of_its_three_copies(bundle, tmp_path):
    gray = pixels(24, 32, dtype=np.uint16)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    run(bundle, tmp_path / "gray.png", tmp_path / "out")
    kind, options = TINY[bundle.name]
    network = kind(**options)
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    three = torch.from_numpy(gray.T / 65535).float()[None, None].expand(1, 3, 32, 24)
    with torch.no_grad():
        expected = network.eval()(three).clamp(0, 1).mean(dim=1)[0].numpy() * 65535
    restored = np.asarray(Image.open(tmp_path / "out" / "gray.png")).astype(np.float64)
    np.testing.assert_allclose(restored, expected.T, rtol=0, atol=1.01)


@pytest.mark.slow
def test_volumes_need_a_modality_and_series_have_one_where_they_are_welcome(bundle, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((20, 21, 2), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match=r"a\.nii\.gz (names no modality|is no picture)"):
        run(bundle, tmp_path / "a.nii.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    ct_series(tmp_path / "ct", slices=2, size=(40, 37))
    if bundle.name != MED_NAME:
        with pytest.raises(ValueError, match="CT: this model is for pictures"):
            run(bundle, tmp_path / "ct", tmp_path / "derived")
        assert not (tmp_path / "derived").exists()
        return
    run(bundle, tmp_path / "ct", tmp_path / "derived")
    series, derived = read_series(tmp_path / "ct"), read_series(tmp_path / "derived")
    assert derived.shape == series.shape
    assert derived.uid != series.uid
    assert 0 < np.abs(derived.array - series.array).mean() < 500  # HU


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["CT", "MR", "RGB", "US"])
def test_the_command_line_says_what_a_volume_is(bundle, tmp_path, modality):
    rng = np.random.default_rng(0)
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(rng.integers(-1000, 1000, (20, 21, 2)).astype(np.int16), np.eye(4)), path)
    args = ["restore", path, "-o", tmp_path / "out.nii.gz", "--bundle", bundle, "--modality", modality]
    result = CliRunner().invoke(app, list(map(str, args)))
    if modality == "RGB":  # what it has without a word
        assert result.exit_code == 3
    elif modality == "US" or bundle.name != MED_NAME:
        known = "RGB, CT, MR or PT" if bundle.name == MED_NAME else "RGB"
        assert result.exit_code == 2
        assert f"modality must be {known}, got '{modality}'." in result.stderr
    else:
        assert result.exit_code == 0, result.stderr
        assert nib.load(tmp_path / "out.nii.gz").shape == (20, 21, 2)


# what the convolutions of these networks see in each direction, in pixels
REACH = {AFF_NAME: 203, MLFF_NAME: 334}


def without_global_averages(network):
    """Hold fixed what is averaged over the whole image; the rest is convolutions."""
    network.without_mean = False
    for module in network.modules():
        if isinstance(module, AFF):
            torch.nn.init.zeros_(module.overall[-1].weight)
        elif isinstance(module, MLFF):
            torch.nn.init.zeros_(module.squeeze.weight)
        elif isinstance(module, MRFAB):
            torch.nn.init.zeros_(module.by_channel[0].weight)
    return network.double().eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", REACH)
def test_tiles_are_exact_but_for_global_averages(name):
    kind, options = TINY[name]
    alignment = json.loads((BUNDLES / name / "configs" / "inference.json").read_text())["inferer"]["alignment"]
    network = without_global_averages(kind(**options))
    length = 2 * REACH[name] + 200
    image = torch.rand(1, 3, 16, length, dtype=torch.float64)
    halo = -(-REACH[name] // alignment) * alignment

    wide = SliceWiseInferer(tile=2 * halo + 64, halo=halo, alignment=alignment, clip_range=None)
    narrow = SliceWiseInferer(tile=64, halo=16, alignment=alignment, clip_range=None)
    exact, _ = tiling_error(wide, image, network)
    rough, _ = tiling_error(narrow, image, network)
    assert exact < 1e-12
    assert rough > 1e-9
    assert halo < REACH[name] + alignment


def opened(root, data, settings, wishes):
    return open_model(Candidate(root.name, find_bundle(root)), "RGB", data, "cpu", settings, wishes)


@pytest.mark.slow
@pytest.mark.parametrize("blurs", [{"length": 9, "sigma": 1.0}, {"length": 1, "radius": 3}])
def test_the_fixed_blur_is_that_of_its_kernel_and_the_same_in_every_run(bundle, blurs, tmp_path):
    write_clean(tmp_path / "data", (64, 67))
    settings = {**blurs, "noise": 0, "kernel_known": True}
    cases = []
    for _ in range(2):
        model = opened(bundle, tmp_path / "data", settings, {"part": "test"})
        source = open_source(model, tmp_path / "data", "clean", "test", False, None)
        cases.append([source(item) for item in source.items])
    for case, again in zip(*cases, strict=True):
        assert torch.equal(case["image"].as_tensor(), again["image"].as_tensor())
        psf = known_psf(case)
        label = case["label"].as_tensor().numpy()
        expected = np.stack([convolve(plane.astype(np.float64), psf, mode="mirror") for plane in label])
        inner = (slice(None), slice(12, -12), slice(12, -12))  # two blurs in turn mirror the border twice
        np.testing.assert_allclose(case["image"].as_tensor().numpy()[inner], expected[inner], rtol=0, atol=0.01)
        assert case["image"].shape[0] == 3
        assert model.restore(case).shape == label.shape
    hidden = opened(bundle, tmp_path / "data", {"noise": 2}, {"part": "test"})
    case = open_source(hidden, tmp_path / "data", "clean", "test", False, 1)
    assert known_psf(case(case.items[0])) is None


def test_the_setting_for_defocus_leaves_the_noise_of_the_other_blurs_alone(bundle):
    item = {"label": 255 * torch.rand(3, 40, 40), "name": "a.png"}

    def degraded(defocus):
        parser = parsed(bundle, "inference", "evaluate", length=9, sigma=1.0, radius=0)
        chain = parser["degradation"]["transforms"][1]["transform"]["transforms"]
        if not defocus:
            chain = [one for one in chain if not one["_target_"].endswith("RandDefocusBlurd")]
        parser["degradation"]["transforms"][1]["transform"]["transforms"] = chain
        return parser.get_parsed_content("degradation")(item)["image"]

    assert torch.equal(degraded(True), degraded(False))


@pytest.fixture
def dice_script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module("downstream_dice")
    sys.modules.pop("downstream_dice", None)


def test_dice_by_hand(dice_script):
    one, other = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert dice_script.dice(one, other) == 1
    one[:2], other[1:3] = True, True
    assert dice_script.dice(one, other) == 0.5  # 4 of 8 and 8
    assert dice_script.dice(one, np.zeros_like(one)) == 0


@pytest.mark.parametrize("bright", [True, False])
def test_nuclei_are_the_smaller_class(dice_script, bright):
    picture = np.full((40, 40), 20.0 if bright else 220.0)
    picture[5:12, 5:12] = picture[20:28, 25:33] = 120.0
    picture[35, 35] = 120.0  # too small to count
    assert dice_script.bright_nuclei(picture) is bright
    mask = dice_script.foreground(picture, bright)
    assert mask.sum() == 49 + 64 + 1
    assert dice_script.parts(mask) == 2


@pytest.mark.slow
def test_the_segmentation_experiment_writes_its_table(dice_script, bundle, tmp_path, monkeypatch):
    (tmp_path / "nuclei").mkdir()
    for number in range(2):
        picture = np.full((48, 51, 3), 10, np.uint8)
        picture[8:20, 8 + number : 20], picture[28:40, 25:36] = 200, 180
        Image.fromarray(picture).save(tmp_path / "nuclei" / f"{number}.png")
    monkeypatch.setattr(dice_script, "BLURS", {name: dice_script.BLURS[name] for name in (dice_script.SHOWN,)})
    arguments = ["--bundle", bundle, "--data", tmp_path / "nuclei", "-o", tmp_path / "out"]
    arguments += ["--baselines", "unsharp_masking"]
    monkeypatch.setattr(sys, "argv", ["downstream_dice.py", *map(str, arguments)])
    dice_script.main()
    lines = (tmp_path / "out" / "dice.md").read_text().splitlines()
    cells = [line.split(" | ") for line in lines[2:]]
    assert [row[1] for row in cells] == ["sharp", "blurred", "unsharp_masking", bundle.name]
    assert cells[0][3] == "1.0000"
    assert Image.open(tmp_path / "out" / "dice.png").size == (3 * (51 + 4), 2 * (48 + 4))


@pytest.mark.slow
def test_a_segmentation_is_learned_from_sharp_pictures(dice_script, tmp_path):
    picture = np.random.default_rng(0).normal(20, 3, (150, 131, 3)).clip(0, 255)
    picture[20:60, 30:70], picture[90:130, 60:110] = 200, 180
    Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "one.png")
    gray = picture.mean(axis=-1)
    first, again = (dice_script.learned_segmentation(tmp_path, 2, 0)(gray, True) for _ in range(2))
    assert first.shape == gray.shape
    assert first.dtype == bool
    np.testing.assert_array_equal(first, again)
    standardized = dice_script.standardized(255 - gray, bright=False)
    torch.testing.assert_close(standardized, dice_script.standardized(gray, bright=True))
    assert abs(float(standardized.mean())) < 1e-5
    with pytest.raises(ValueError, match="no PNG file"):
        dice_script.learned_segmentation(tmp_path / "none", 1, 0)
