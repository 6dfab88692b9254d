"""An opened bundle on images in memory: the same values as for files, in the type they came in, and no trace left."""

import json
import random
import subprocess
import sys
import threading
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import run
from monai.data import MetaTensor
from phantoms import ct_series, ct_volume
from PIL import Image
from tiny_bundle import BUNDLES, NAME, edit_json, make_tiny_bundle

from medrestore_monai import Restorer
from medrestore_monai.data import LoadImageOrSeriesd
from medrestore_monai.dicom import read_series
from medrestore_monai.notes import Notes

SIZE = (40, 36)
ALL, PET, MRI = "all_in_one_restore_rwkv", "pet_synthesis_restore_rwkv", "mri_superresolution_restore_rwkv"
DEBLUR = ("multimodal_deblur_meddeblur", "rgb_deblur_aff_unet_rwkv", "rgb_deblur_mlff_unet")
MODALITIES = {NAME: ["CT"], ALL: ["CT", "MR", "PT"], PET: ["PT"], MRI: ["MR"], **{name: ["RGB"] for name in DEBLUR}}
CASES = [(name, modality) for name, found in MODALITIES.items() for modality in found]
CASES += [("multimodal_deblur_meddeblur", modality) for modality in ("CT", "MR", "PT")]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """All seven bundles; those of Restore-RWKV with tiny networks, PET with neighboring slices."""
    folder = tmp_path_factory.mktemp("bundles")
    tiny = {name: make_tiny_bundle(folder, name) for name in (NAME, ALL, MRI)}
    return {**tiny, PET: make_tiny_bundle(folder, PET, context=2), **{name: BUNDLES / name for name in DEBLUR}}


@pytest.fixture(scope="module")
def restorer(roots):
    return Restorer(roots[NAME], device="cpu")


def picture(*shape):
    noise = np.random.default_rng(0).random(shape)
    return np.rint(255 * (noise + np.roll(noise, 1, 0)) / 2).astype(np.uint8)


def volume_of(modality):
    hu = ct_volume(5, (20, 17)).astype(np.float32) + 0.25
    return {"CT": hu, "MR": (hu + 1024).clip(0) * 2, "PT": (hu + 1024).clip(0) / 200}[modality]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "modality"), CASES)
def test_file_array_and_monai_bundle_give_equal_voxels(tmp_path, roots, name, modality):
    """The physics is on, as the configuration has it."""
    restorer = Restorer(roots[name], device="cpu")
    said = {} if len(restorer.modalities) == 1 or modality == "RGB" else {"modality": modality}
    if modality == "RGB":
        array = picture(19, 22, 3)
        places = [tmp_path / f"{stem}.png" for stem in ("in", "file", "bundle")]
        Image.fromarray(array).save(places[0])
        values = [array, array]
    else:
        array = volume_of(modality)
        places = [tmp_path / f"{stem}.nii.gz" for stem in ("in", "file", "bundle")]
        nib.save(nib.Nifti1Image(array, np.diag([-2.0, -2.0, 3.0, 1.0])), places[0])
        values = [array, nib.load(places[0])]
    with Notes():
        in_memory = [
            restorer(one, spacing=(2, 2, 3) if one is array and array.dtype == np.float32 else None, **said)
            for one in values
        ]
    result = restorer.restore_file(places[0], places[1], **said)
    config, metadata = (str(roots[name] / "configs" / f"{part}.json") for part in ("inference", "metadata"))
    arguments = {"bundle_root": str(roots[name]), "dataset_dir": str(places[0]), "output_dir": str(places[2]), **said}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(
            "inference",
            config_file=config,
            meta_file=metadata,
            logging_file=False,
            device=torch.device("cpu"),
            **arguments,
        )

    def read(image):
        return np.asarray(image.dataobj if isinstance(image, nib.Nifti1Image) else image)

    def read_file(path):
        return np.asarray(Image.open(path)) if path.suffix == ".png" else read(nib.load(path))

    wanted = read_file(places[1])
    assert (wanted != array).any()
    assert result.outputs == (places[1],)
    for found in (read_file(places[2]), *map(read, in_memory)):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.slow
def test_a_series_and_its_voxels_give_equal_ones(tmp_path, restorer):
    ct_series(tmp_path / "in", volume=ct_volume(3, SIZE), signed=True, bits_stored=16)
    restorer.restore_file(tmp_path / "in", tmp_path / "out")
    image = LoadImageOrSeriesd("image")({"image": tmp_path / "in"})["image"]
    restored = restorer(image)
    np.testing.assert_array_equal(np.rint(restored[0].numpy()), read_series(tmp_path / "out").array)
    assert restored.meta["series_uid"] == image.meta["series_uid"]


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "int64", "float16", "float32", "float64"])
def test_type_shape_and_rounding(restorer, dtype):
    volume = ct_volume(2, SIZE)
    volume[3, 4] = 3600.0
    image = (volume + (2000 if dtype == "uint16" else 0)).astype(dtype)
    before = image.copy()
    offset = {"hu_offset": -2000} if dtype == "uint16" else {}
    with Notes() as notes:
        restored = restorer(image, **offset)
    np.testing.assert_array_equal(image, before)
    assert (restored.dtype, restored.shape) == (image.dtype, image.shape)
    exact = restorer(volume.astype(np.float32)) + (2000 if dtype == "uint16" else 0)
    wanted = np.rint(exact) if image.dtype.kind in "iu" else exact.astype(dtype)
    np.testing.assert_allclose(restored.astype(np.float64), wanted, rtol=0, atol=0.51 if dtype == "uint16" else 1e-3)
    assert [dtype in note for note in notes.messages] == ([True] if dtype not in ("float16", "float32") else [])
    assert (restored[3, 4] == image[3, 4]).all()  # metal stays


def test_clipped_values_are_counted(restorer):
    image = ct_volume(1, SIZE)[..., 0]
    image[5:, 5:] = -1000
    hu = (image + 1000).clip(0, None).astype(np.uint16)
    with Notes() as notes:
        restored = restorer(hu, hu_offset=-1000.0)
    exact = restorer(hu.astype(np.float32) - 1000) + 1000
    clipped = int((np.rint(exact) < 0).sum())
    assert clipped > 0
    assert notes.messages == [
        f"The restored values were rounded to uint16; {clipped} of {hu.size} lay outside of its range and were clipped."
    ]
    np.testing.assert_array_equal(restored, np.rint(exact).clip(0))


def test_without_a_collector_notes_are_warnings(restorer):
    with pytest.warns(UserWarning, match="rounded to int16") as caught:
        restorer(ct_volume(1, SIZE).astype(np.int16))
    assert caught[0].filename == __file__


@pytest.mark.parametrize("form", ["float32", "bfloat16", "channel", "strided"])
def test_tensors(restorer, form):
    volume = torch.from_numpy(ct_volume(3, SIZE).astype(np.float32))
    image = {"float32": volume, "bfloat16": volume.bfloat16(), "channel": volume[None], "strided": volume[::2, 1::2]}
    image = image[form]
    restored = restorer(image)
    assert type(restored) is torch.Tensor
    assert (restored.dtype, restored.shape, restored.device) == (image.dtype, image.shape, image.device)
    plain = image.float().numpy().reshape(image.shape[-3:])
    np.testing.assert_array_equal(restored.float().numpy().reshape(plain.shape), _as(restorer(plain), image.dtype))


def _as(values, dtype):
    return torch.from_numpy(values).to(dtype).float().numpy()


@pytest.mark.parametrize("shape", [(1, *SIZE, 3), (*SIZE, 3), (1, *SIZE), SIZE])
def test_meta_tensors_keep_their_meta_data(restorer, shape):
    volume = ct_volume(3, SIZE).astype(np.float32)
    values = volume if 3 in shape else volume[..., 0]
    affine = torch.diag(torch.tensor([-0.7, -0.7, 2.5, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.from_numpy(values).reshape(shape), affine=affine, meta={"patient": "p1"})
    image.applied_operations = [{"class": "x"}]
    restored = restorer(image)
    assert isinstance(restored, MetaTensor)
    assert restored.shape == image.shape
    assert restored.meta["patient"] == "p1"
    assert torch.equal(restored.affine, affine)
    assert restored.applied_operations == image.applied_operations
    np.testing.assert_array_equal(restored.numpy().reshape(values.shape), restorer(values))


@pytest.mark.slow
def test_pictures_of_monai_are_columns_first(roots):
    restorer = Restorer(roots["rgb_deblur_mlff_unet"], device="cpu")
    array = picture(19, 22, 3)
    tensor = MetaTensor(torch.from_numpy(array.transpose(2, 1, 0).copy()))
    with Notes():
        np.testing.assert_array_equal(restorer(tensor).numpy().transpose(2, 1, 0), restorer(array))
        gray = restorer(array[..., 0])
        three = restorer(np.repeat(array[..., :1], 3, axis=2))
    assert gray.shape == (19, 22)
    assert np.abs(gray.astype(int) - three.mean(axis=2)).max() <= 1
    with pytest.raises(ValueError, match=r"expected one 2D image or 3D volume, or a color picture"):
        restorer(array[None])


@pytest.mark.parametrize("slope", [None, (0.5, -1000.0)])
@pytest.mark.parametrize("form", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("extra", [(), (1,)])
def test_images_of_nibabel(tmp_path, restorer, slope, form, extra):
    volume = ct_volume(3, SIZE).astype(np.float32)
    affine = np.array([[-0.7, 0, 0, 90], [0, -0.7, 0, 80], [0, 0, 2.5, -40], [0, 0, 0, 1.0]])
    given = form(volume.reshape(volume.shape + extra), affine)
    given.header["descrip"] = b"a scan"
    if slope:
        given.header.set_slope_inter(*slope)
        given.set_data_dtype(np.int16)
    nib.save(given, tmp_path / "a.nii")
    image = nib.load(tmp_path / "a.nii")
    restored = restorer(image)
    restorer.restore_file(tmp_path / "a.nii", tmp_path / "b.nii")
    wanted = nib.load(tmp_path / "b.nii")
    assert type(restored) is form
    assert restored.shape == image.shape
    assert restored.get_data_dtype() == image.get_data_dtype()
    assert restored.header["descrip"] == b""  # free text is not carried on
    np.testing.assert_array_equal(restored.affine, image.affine)
    np.testing.assert_array_equal(np.asarray(restored.dataobj), np.asarray(wanted.dataobj))
    nib.save(restored, tmp_path / "c.nii")
    nib.save(wanted, tmp_path / "d.nii")  # nibabel chooses a slope of its own
    assert (tmp_path / "c.nii").read_bytes() == (tmp_path / "d.nii").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nibabel", "nibabel with slice_dim", "SimpleITK"])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_slice_axis_of_an_image_in_memory_is_that_of_a_file(tmp_path, restorer, kind, axis):
    volume = ct_volume(6, SIZE).astype(np.float32)
    order = {0: (2, 0, 1), 1: (0, 2, 1)}[axis]
    spacing = np.array([0.7, 0.7, 0.7 if "dim" in kind else 2.5])[list(order)]
    affine = np.zeros((4, 4))
    affine[[*order, 3], [0, 1, 2, 3]] = [*(spacing * (-1, -1, 1)), 1]
    given = nib.Nifti1Image(volume.transpose(order), affine)
    if "dim" in kind:
        given.header.set_dim_info(slice=axis)
    nib.save(given, tmp_path / "a.nii")
    restorer.restore_file(tmp_path / "a.nii", tmp_path / "b.nii")
    wanted = np.asarray(nib.load(tmp_path / "b.nii").dataobj)
    with Notes() as notes:
        if kind == "SimpleITK":
            import SimpleITK

            result = SimpleITK.GetArrayFromImage(restorer(SimpleITK.ReadImage(tmp_path / "a.nii"))).transpose(2, 1, 0)
        else:
            result = np.asarray(restorer(given).dataobj)
    np.testing.assert_array_equal(result, wanted)
    np.testing.assert_array_equal(result.transpose(np.argsort(order)), restorer(volume, spacing=(0.7, 0.7, 2.5)))
    assert f"lie across axis {axis}, not the third" in notes.messages[0]
    with Notes() as notes:
        restorer(given, slice_axis=axis)
    assert notes.messages == []


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_nan_in_memory_is_padding_as_in_a_file(tmp_path, roots, modality):
    restorer = Restorer(roots[ALL], device="cpu", modality=modality)
    volume = volume_of(modality)
    volume[:3], volume[:, -2:, 1:] = np.nan, np.nan
    nib.save(nib.Nifti1Image(volume, np.diag([-2.0, -2.0, 3.0, 1.0])), tmp_path / "a.nii")
    restorer.restore_file(tmp_path / "a.nii", tmp_path / "b.nii")
    wanted = nib.load(tmp_path / "b.nii").get_fdata(dtype=np.float32)
    forms = {
        "array": volume,
        "double": volume.astype(np.float64),
        "tensor": torch.from_numpy(volume),
        "meta": MetaTensor(torch.from_numpy(volume)[None]),
        "nibabel": nib.load(tmp_path / "a.nii"),
    }
    for name, image in forms.items():
        with Notes() as notes:
            found = restorer(image, spacing=None if name == "nibabel" else (2, 2, 3))
        assert f"the image: {np.isnan(volume).sum()} voxels have no value (NaN); they are kept as padding." in (
            notes.messages
        )
        values = np.asarray(found.dataobj if name == "nibabel" else found, dtype=np.float32).reshape(wanted.shape)
        np.testing.assert_array_equal(values, wanted, err_msg=name)
    assert (np.isnan(wanted) == np.isnan(volume)).all()
    assert (wanted != volume)[~np.isnan(volume)].mean() > 0.3


def test_slices_stacked_along_another_axis(restorer):
    volume = ct_volume(5, SIZE).astype(np.float32)
    wanted = restorer(volume)
    for axis in (0, 1, -2):
        moved = np.moveaxis(volume, -1, axis)
        np.testing.assert_array_equal(restorer(moved, slice_axis=axis), np.moveaxis(wanted, -1, axis))
    tensor = MetaTensor(torch.from_numpy(np.moveaxis(volume, -1, 0).copy()))
    np.testing.assert_array_equal(restorer(tensor, slice_axis=0).numpy(), np.moveaxis(wanted, -1, 0))
    opened = Restorer(restorer.bundle, device="cpu", slice_axis=0)
    np.testing.assert_array_equal(opened(np.moveaxis(volume, -1, 0)), np.moveaxis(wanted, -1, 0))


@pytest.mark.slow
def test_neighbors_need_the_spacing_along_the_slices(roots):
    restorer, volume = Restorer(roots[PET], device="cpu"), volume_of("PT")
    with Notes() as notes:
        near = restorer(volume, spacing=(2, 2, 3))
        moved = restorer(np.moveaxis(volume, -1, 0), spacing=(3, 2, 2), slice_axis=0)
        assert ["does not name the unit of its PET" in message for message in notes.messages] == [True]
        alone = restorer(volume)
    assert "without its neighbors: the distance of its slices is unknown" in notes.messages[1]
    np.testing.assert_array_equal(moved, np.moveaxis(near, -1, 0))
    assert (near != alone).any()


@pytest.mark.slow
def test_pet_in_other_units(roots):
    restorer, suv = Restorer(roots[PET], device="cpu", keep_total_activity=False), volume_of("PT")
    restored = restorer(suv, spacing=(2, 2, 3))
    np.testing.assert_allclose(restorer(suv * 5000, spacing=(2, 2, 3), suv_factor=1 / 5000) / 5000, restored, atol=1e-4)
    with pytest.raises(ValueError, match="are no SUV"):
        restorer(suv * 5000, spacing=(2, 2, 3))


@pytest.mark.parametrize(
    ("image", "settings", "error", "message"),
    [
        (np.zeros((40, 96, 96), np.float32), {}, ValueError, r"\(40, 96, 96\) looks as if the slices came first: give"),
        (np.zeros((10, 36, 40), np.float32), {}, ValueError, "slices came first"),
        (np.zeros((2, 3, 4, 5), np.float32), {}, ValueError, "expected one 2D image or 3D volume, got the shape"),
        (np.zeros((4, 0), np.float32), {}, ValueError, "expected one 2D image or 3D volume"),
        (np.full((4, 4), np.nan, np.float32), {}, ValueError, "the image has 16 infinite or NaN values"),
        (np.where(np.eye(4), np.inf, np.float32(np.nan)), {}, ValueError, "the image has 4 infinite or NaN values"),
        (np.full((4, 4), 2**23), {}, ValueError, "integers of the image are too large"),
        (np.full((4, 4), True), {}, TypeError, "must hold integers or real numbers, got bool"),
        ([[1.0]], {}, TypeError, "must be a NumPy array, a tensor, or an image of nibabel .* got list"),
        (np.zeros((4, 4), np.float32), {"slice_axis": 0}, ValueError, "slice_axis is one of the axes 0, 1, 2"),
        (np.zeros((4, 4), np.float32), {"spacing": (1, 2, 3)}, ValueError, "spacing must be 2 numbers"),
        (np.zeros((4, 4), np.float32), {"spacing": (1, -2)}, ValueError, "spacing must be 2 numbers of mm above 0"),
        (np.zeros((4, 4), np.float32), {"modality": "MRI"}, ValueError, "modality must be CT, got 'MRI'"),
        (np.zeros((4, 4), np.float32), {"suv_factor": 2.0}, ValueError, "`suv_factor` is for PT, not for CT"),
        (np.zeros((4, 4), np.float32), {"strength": 1.5}, ValueError, r"strength must be a number in \[0, 1\]"),
        (np.zeros((4, 4), np.float32), {"precision": "bfloat16"}, ValueError, "precision is set when the bundle is"),
        (np.zeros((4, 4), np.float32), {"network_def::dim": 4}, ValueError, "network_def::dim is set when"),
        (np.zeros((4, 4), np.float32), {"mean_hu": "$exit()"}, ValueError, "mean_hu must be check, correct or off"),
        (np.eye(4, dtype=np.float32) * 200 + 900, {}, ValueError, "hu_offset"),
        (MetaTensor(torch.zeros(1, 4, 4), meta={"modality": "MR"}), {}, ValueError, "modality MR, where CT is"),
        (nib.Nifti1Image(np.zeros((4, 4), np.float32), np.eye(4)), {"spacing": (1, 1)}, ValueError, "of its own"),
    ],
)
def test_what_cannot_be_restored_is_refused_in_one_sentence(restorer, image, settings, error, message):
    with pytest.raises(error, match=message):
        restorer(image, **settings)


def test_a_volume_of_three_slices_is_a_picture_for_bundles_of_pictures_alone(roots, restorer):
    volume = ct_volume(3, SIZE).astype(np.float32)
    assert restorer(volume).shape == volume.shape
    both = Restorer(roots["multimodal_deblur_meddeblur"], device="cpu")
    assert both(volume, modality="CT").shape == volume.shape
    with pytest.raises(ValueError, match="pictures of type float32 have values from 0 to 1"):
        both(volume)


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["pet", "PET", "pt", "PT"])
def test_what_people_call_a_modality(roots, modality):
    restorer, suv = Restorer(roots[ALL], device="cpu"), volume_of("PT")
    np.testing.assert_array_equal(restorer(suv, modality=modality), restorer(suv, modality="PT"))


@pytest.mark.slow
def test_inference_json_is_read_once_for_each_restorer_and_never_by_a_call(tmp_path, roots, monkeypatch):
    read, built, load = [], [], json.loads
    monkeypatch.setattr(json, "loads", lambda text, **options: (read.append(str(text)), load(text, **options))[1])
    network = type(Restorer(roots[NAME], device="cpu")._values["network"])
    start = network.__init__
    monkeypatch.setattr(network, "__init__", lambda self, *a, **k: (built.append(self), start(self, *a, **k))[1])

    def parses():
        return [text for text in read if '"_target_"' in text]

    read.clear()
    restorer = Restorer(roots[NAME], device="cpu")
    assert len(parses()) == 1
    opened = len(built)
    np.save(tmp_path / "a.npy", ct_volume(2, SIZE))
    for strength in (1, 0.5):
        restorer(ct_volume(2, SIZE).astype(np.float32), strength=strength, self_ensemble=2)
        restorer.restore_file(tmp_path / "a.npy", tmp_path / "b.npy", overwrite=True, strength=strength)
    assert len(parses()) == 1
    assert len(built) == opened


def state():
    kind, keys, *rest = np.random.get_state()
    cudnn = torch.backends.cudnn
    return (
        random.getstate(),
        (kind, keys.tolist(), *rest),
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()),
        list(warnings.filters),
    )


@pytest.mark.slow
def test_opening_and_calls_leave_no_trace(tmp_path, roots):
    torch.manual_seed(3)
    torch.rand(7)  # not where the seed begins, to which a data loader of MONAI would go back
    np.save(tmp_path / "a.npy", ct_volume(2, SIZE))
    before = state()
    restorer = Restorer(roots[NAME], device="cpu")
    assert state() == before
    restorer(ct_volume(2, SIZE).astype(np.float32))
    restorer.restore_file(tmp_path / "a.npy", tmp_path / "b.npy", tile=136)
    with pytest.raises(ValueError, match="strength"):
        restorer(ct_volume(2, SIZE), strength=2)
    assert state() == before


@pytest.mark.slow
def test_two_restorers_side_by_side_in_threads(tmp_path, roots):
    """Each gives what it gives alone, and notes of its own; filters stay, and log levels."""
    bundles = {"CT": roots[NAME], "PT": roots[PET]}
    volumes = {modality: volume_of(modality) for modality in bundles}
    for modality, volume in volumes.items():
        nib.save(nib.Nifti1Image(volume, np.diag([-2.0, -2.0, 9.0, 1.0])), tmp_path / f"{modality}.nii")
    with Notes():
        alone = {modality: Restorer(root, device="cpu")(volumes[modality]) for modality, root in bundles.items()}
    filters, found, failed = list(warnings.filters), {}, []

    def work(modality):
        try:
            restorer = Restorer(bundles[modality], device="cpu")
            for number in range(4):
                output = tmp_path / f"{modality}{number}.nii"
                notes = restorer.restore_file(tmp_path / f"{modality}.nii", output).notes
                found[modality, number] = (nib.load(output).get_fdata(dtype=np.float32), notes)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(modality,)) for modality in bundles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert warnings.filters == filters
    assert len(found) == 8
    for (modality, _), (values, notes) in found.items():
        np.testing.assert_array_equal(values, alone[modality])
        assert [("neighbors" in note) for note in notes] == ([False, True] if modality == "PT" else [])  # the unit


@pytest.mark.slow
def test_what_a_result_holds(tmp_path, roots):
    np.save(tmp_path / "a.npy", ct_volume(2, SIZE).astype(np.float64))
    restorer = Restorer(roots[NAME], device="cpu", self_ensemble=2)
    result = restorer.restore_file(tmp_path / "a.npy", tmp_path / "b.npy", strength=0.5)
    assert (result.sources, result.outputs) == ((tmp_path / "a.npy",), (tmp_path / "b.npy",))
    assert result.weights_sha256 == restorer.weights_sha256 == restorer.bundle.metadata["weights_sha256"]
    assert (result.settings["strength"], result.settings["self_ensemble"]) == (0.5, 2)
    assert 0 < result.seconds < 60
    assert ["7 digits" in note for note in result.notes] == [True]


def test_an_older_bundle_is_refused_in_one_sentence(tmp_path):
    root = make_tiny_bundle(tmp_path)
    edit_json(root / "configs" / "inference.json", lambda config: (config.pop("load"), config.pop("save")))
    with pytest.raises(ValueError, match=r"inference\.json has no load, save: bring it to the form"):
        Restorer(root, trust_bundle=True)


FACE = """
import importlib, pkgutil, sys
import medrestore_monai
assert not {"torch", "monai"} & set(sys.modules), "heavy"
from medrestore_monai import list_bundles
list_bundles()
assert not {"torch", "monai"} & set(sys.modules), "heavy for a list"
skipped = ("label_app", "bundled", "__main__", "biwkv_triton", "_biwkv")
for found in pkgutil.walk_packages(medrestore_monai.__path__, "medrestore_monai."):
    if not any(part in found.name for part in skipped):
        importlib.import_module(found.name)
from medrestore_monai import Restored, degrade, restore
degrade("clean.npy", "low.npy", "gaussian_blur", sigma=1.0)
assert isinstance(restore("low.npy", "out.npy", sys.argv[1], device="cpu", hu_offset=0), Restored)
"""


@pytest.mark.slow
def test_the_face_of_the_package(tmp_path, roots):
    """In a process of its own: nothing heavy is imported, and no module takes the place of a function."""
    np.save(tmp_path / "clean.npy", ct_volume(1, SIZE)[..., 0].astype(np.float32))
    result = subprocess.run(
        [sys.executable, "-c", FACE, str(roots[NAME])], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert np.load(tmp_path / "out.npy").shape == SIZE


def test_images_of_simple_itk(restorer, roots):
    import SimpleITK

    volume = ct_volume(4, SIZE).astype(np.float32)
    image = SimpleITK.GetImageFromArray(volume.transpose(2, 1, 0))
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-90.0, 3.0, 7.0))
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
    image.SetMetaData("0008|0060", "CT")
    restored = restorer(image)
    assert (restored.GetSpacing(), restored.GetOrigin()) == (image.GetSpacing(), image.GetOrigin())
    assert (restored.GetDirection(), restored.GetPixelID()) == (image.GetDirection(), image.GetPixelID())
    assert restored.GetMetaData("0008|0060") == "CT"
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(restored).transpose(2, 1, 0), restorer(volume))
    array = picture(19, 22, 3)
    deblur = Restorer(roots["rgb_deblur_mlff_unet"], device="cpu")
    with Notes():
        colored = deblur(SimpleITK.GetImageFromArray(array, isVector=True))
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(colored), deblur(array))
    pet = Restorer(roots[PET], device="cpu")
    suv = volume_of("PT")
    image = SimpleITK.GetImageFromArray(suv.transpose(2, 1, 0))
    image.SetSpacing((2.0, 2.0, 3.0))
    found = SimpleITK.GetArrayFromImage(pet(image)).transpose(2, 1, 0)
    np.testing.assert_array_equal(found, pet(suv, spacing=(2, 2, 3)))
