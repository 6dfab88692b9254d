"""A bundle's inference run on every kind of image: right values, same kind, same grid, and one clear error else."""

import json
import logging
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import tifffile
import torch
from phantoms import ct_series, ct_volume, pet_series
from PIL import Image
from tiny_bundle import TINY, edit_json, make_tiny_bundle, write_tiny_weights

from medrestore_monai.dicom import read_series
from medrestore_monai.engines.errors import root_cause
from medrestore_monai.images import read_image
from medrestore_monai.networks import RestoreRWKV
from medrestore_monai.restorer import Restorer, restore

SIZE = (40, 36)
AFFINE = np.array([[-0.7, 0, 0, 90], [0, -0.7, 0, 80], [0, 0, 2.5, -40], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles"))


def expected(volume, weights):
    """HU after the tiny network, slice by slice, written down again without any part of the pipeline."""
    network = RestoreRWKV(**TINY).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    scaled = (torch.from_numpy(volume) + 1024) / 4096
    slices = scaled.movedim(-1, 0)[:, None] if volume.ndim == 3 else scaled[None, None]
    with torch.no_grad():
        output = torch.cat([network(one[None]) for one in slices.clamp(0, 1)]).clamp(0, 1)
    restored = torch.where(slices == slices.clamp(0, 1), output, slices) * 4096 - 1024
    return (restored[:, 0].movedim(0, -1) if volume.ndim == 3 else restored[0, 0]).numpy()


def write_files(folder):
    """The same CT as five kinds of files: name, and the type its numbers have."""
    volume = ct_volume(3, SIZE)
    nib.save(nib.Nifti1Image(volume.astype(np.int16), AFFINE), folder / "a.nii.gz")
    np.save(folder / "b.npy", volume.astype(np.float64))
    np.savez(folder / "c.npz", ct=volume.astype(np.int16))
    pages = np.ascontiguousarray(volume.T.astype(np.float32))
    tifffile.imwrite(folder / "d.tif", pages, photometric="minisblack")
    Image.fromarray(np.clip(volume[..., 0], 0, None).T.astype(np.uint16)).save(folder / "e.png")
    return {"a.nii.gz": "int16", "b.npy": "float64", "c.npz": "int16", "d.tif": "float32", "e.png": "uint16"}


@pytest.mark.slow
def test_a_series_is_restored_as_the_network_says(tmp_path, bundle):
    volume = ct_volume(3, SIZE)
    volume[3, 4] = 3600  # metal, above the range of the network
    ct_series(tmp_path / "ct", volume=volume, signed=True, bits_stored=16)
    result = restore(tmp_path / "ct", tmp_path / "out", bundle, device="cpu")
    assert (result.sources, result.outputs) == ((tmp_path / "ct",), (tmp_path / "out",))
    derived = read_series(tmp_path / "out")
    wanted = expected(volume, bundle / "models" / "model.pt")
    assert np.abs(wanted - volume).mean() > 5  # the network does something
    np.testing.assert_allclose(derived.array, wanted, rtol=0, atol=0.51)  # whole HU


@pytest.mark.slow
def test_files_keep_kind_type_and_affine(tmp_path, bundle):
    (tmp_path / "in").mkdir()
    types = write_files(tmp_path / "in")
    result = restore(tmp_path / "in", tmp_path / "out", bundle, hu_offset=0)
    assert result.outputs == tuple(tmp_path / "out" / name for name in types)
    assert [note for note in result.notes if "e.png" in note and "were clipped" in note]  # it holds no HU below 0
    for name, dtype in types.items():
        given, meta = read_image(tmp_path / "in" / name)
        found, like = read_image(tmp_path / "out" / name)
        assert (like["original_dtype"], like["kind"]) == (dtype, meta["kind"])
        np.testing.assert_array_equal(like["affine"], meta["affine"])
        wanted = expected(given, bundle / "models" / "model.pt")
        wanted = np.clip(wanted, 0, None) if dtype == "uint16" else wanted
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.51 if "int" in dtype else 0.01)
    np.testing.assert_allclose(nib.load(tmp_path / "out" / "a.nii.gz").affine, AFFINE)


@pytest.mark.slow
def test_slabs_give_the_same_series_as_the_whole(tmp_path, bundle):
    ct_series(tmp_path / "ct", volume=ct_volume(7, SIZE))
    outputs = []
    for slab in (0, 3):
        restore(tmp_path / "ct", tmp_path / f"out{slab}", bundle, device="cpu", slab=slab)
        outputs.append(read_series(tmp_path / f"out{slab}"))
    np.testing.assert_array_equal(outputs[0].array, outputs[1].array)
    assert outputs[0].uid == outputs[1].uid  # of content and settings, not of the way
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct", "out0", "out3"]


@pytest.mark.slow
def test_a_bad_slab_leaves_nothing(tmp_path, bundle):
    ct_series(tmp_path / "ct", volume=ct_volume(7, SIZE))
    broken = sorted((tmp_path / "ct").iterdir())[-1]
    data = broken.read_bytes()
    ds = pydicom.dcmread(broken)
    ds.PixelData = ds.PixelData[:-200]
    ds.save_as(broken)
    assert broken.read_bytes() != data
    with pytest.raises(ValueError, match=broken.name):
        restore(tmp_path / "ct", tmp_path / "a" / "out", bundle, device="cpu", slab=3)
    assert [path.name for path in tmp_path.iterdir()] == ["ct"]


@pytest.mark.slow
def test_strength_zero_changes_nothing(tmp_path, bundle):
    ct_series(tmp_path / "in" / "ct", slices=3, size=SIZE)
    types = write_files(tmp_path / "in")
    restore(tmp_path / "in", tmp_path / "out", bundle, strength=0, hu_offset=0)
    source, derived = read_series(tmp_path / "in" / "ct"), read_series(tmp_path / "out" / "ct")
    for index in range(3):
        np.testing.assert_array_equal(derived.stored(index), source.stored(index))
    for name in types:
        given, found = read_image(tmp_path / "in" / name)[0], read_image(tmp_path / "out" / name)[0]
        np.testing.assert_array_equal(found, given)


@pytest.mark.slow
def test_two_runs_are_equal_to_the_bit(tmp_path, bundle):
    ct_series(tmp_path / "in" / "ct", slices=2, size=SIZE)
    write_files(tmp_path / "in")
    for name in ("one", "two"):
        restore(tmp_path / "in", tmp_path / name, bundle, hu_offset=0)
    one, two = read_series(tmp_path / "one" / "ct"), read_series(tmp_path / "two" / "ct")
    assert one.uid == two.uid
    for index in range(2):
        np.testing.assert_array_equal(one.stored(index), two.stored(index))
    for file in (tmp_path / "one").iterdir():
        if file.is_file() and file.suffix != ".npz":  # a zip archive holds the time
            assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


@pytest.mark.slow
def test_tiles_and_weights_of_ones_own(tmp_path, bundle):
    np.save(tmp_path / "a.npy", ct_volume(1, (160, 136))[..., 0])
    own = write_tiny_weights(tmp_path / "own.pt", seed=1)
    for name, options in {"whole": {}, "tiled": {"tile": 136, "halo": 64}, "own": {"weights": str(own)}}.items():
        restore(tmp_path / "a.npy", tmp_path / name, bundle, **options)
    whole, tiled, own = (np.load(tmp_path / name / "a.npy") for name in ("whole", "tiled", "own"))
    assert 0 < np.abs(whole - tiled).mean() < np.abs(whole - own).mean()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [str, Path])
def test_the_letters_of_a_path_mean_nothing(tmp_path, kind):
    """MONAI separates the keys of a configuration by ``#``, and names one with ``@``."""
    root = make_tiny_bundle(tmp_path / "run#1, @weights")
    own = write_tiny_weights(tmp_path / "@#own.pt", seed=1)
    volume = ct_volume(1, SIZE)[..., 0]
    np.save(tmp_path / "a#.npy", volume)
    for name, options in {"of#bundle": {}, "own": {"weights": kind(own)}}.items():
        restore(kind(tmp_path / "a#.npy"), kind(tmp_path / name), kind(root), **options)
        weights = options.get("weights", root / "models" / "model.pt")
        np.testing.assert_allclose(np.load(tmp_path / name / "a#.npy"), expected(volume, weights), rtol=0, atol=0.01)


@pytest.mark.slow
def test_a_copy_of_a_bundle_uses_its_own_weights(tmp_path, bundle, monkeypatch):
    """Not those of a bundle of the same name that is found first."""
    copy = make_tiny_bundle(tmp_path / "copy")
    write_tiny_weights(copy / "models" / "model.pt", seed=1)
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(bundle.parent))
    np.save(tmp_path / "a.npy", ct_volume(1, SIZE)[..., 0])
    with pytest.raises(ValueError, match="is not the file of the bundle's card"):
        restore(tmp_path / "a.npy", tmp_path / "out", copy)
    assert not (tmp_path / "out").exists()


def test_missing_weights_stop_before_anything_is_written(tmp_path):
    bundle = make_tiny_bundle(tmp_path / "copy")
    (bundle / "models" / "model.pt").unlink()
    np.save(tmp_path / "a.npy", ct_volume(1, SIZE)[..., 0])
    with pytest.raises(ValueError, match="is missing; train the bundle"):
        restore(tmp_path / "a.npy", tmp_path / "out", bundle)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["nan", "inf"])
def test_weights_that_make_no_image_write_none(tmp_path, bundle, seed):
    state = torch.load(write_tiny_weights(tmp_path / "own.pt"), weights_only=True)
    state["output.weight"].fill_(float(seed))
    torch.save(state, tmp_path / "own.pt")
    np.save(tmp_path / "a.npy", ct_volume(1, SIZE)[..., 0])
    with pytest.raises(RuntimeError, match="NaN or infinite"):
        restore(tmp_path / "a.npy", tmp_path / "out", bundle, weights=str(tmp_path / "own.pt"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_of_many_images_those_before_a_bad_one_are_whole(tmp_path, bundle):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", ct_volume(1, SIZE)[..., 0])
    pet_series(tmp_path / "in" / "b", slices=2)
    np.save(tmp_path / "in" / "c.npy", ct_volume(1, SIZE)[..., 0])
    with pytest.raises(ValueError, match="b holds a series of modality PT, where CT is expected"):
        restore(tmp_path / "in", tmp_path / "out", bundle)
    assert [file.name for file in (tmp_path / "out").rglob("*")] == ["a.npy"]
    assert np.load(tmp_path / "out" / "a.npy").shape == SIZE


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 3)])
def test_there_is_no_least_size(tmp_path, bundle, size):
    np.save(tmp_path / "a.npy", np.zeros(size, np.float32))
    restore(tmp_path / "a.npy", tmp_path / "out", bundle)
    assert np.load(tmp_path / "out" / "a.npy").shape == size


@pytest.mark.slow
def test_a_name_that_looks_like_an_expression_is_a_name(tmp_path, bundle, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "$__import__('pathlib').Path('sentinel').touch()"
    ct_series(tmp_path / name, slices=2, size=SIZE)
    restore(name, "@output", bundle, strength=0)
    assert len(list((tmp_path / "@output").iterdir())) == 2
    with pytest.raises(ValueError, match="digits and dots only"):
        restore(name, "out", bundle, series_uid=name)
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device must be auto, cpu, cuda, cuda:N or mps, got 'tpu'"),
        ({"device": "$exit()"}, "device must be"),
        ({"device": "cuda:99"}, "there is no device cuda:99"),
        ({"strength": 1.5}, r"strength must be a number in \[0, 1\], got 1.5"),
        ({"tile": 100}, "tile must be"),
        ({"slice_batch_size": 0}, "slice_batch_size must be"),
        ({"strenght": 1.0}, r"there is no setting strenght\. Did you mean strength\?"),
        ({"series_uid": "1.2.a"}, "digits and dots only"),
    ],
)
def test_bad_options_are_refused_before_an_image_is_read(tmp_path, bundle, options, message):
    for call in (lambda: Restorer(bundle, **options), lambda: restore(tmp_path, tmp_path, bundle, **options)):
        with pytest.raises((ValueError, RuntimeError), match=message):
            call()


@pytest.mark.slow
def test_values_deep_in_the_configuration_can_be_set(tmp_path, bundle):
    np.save(tmp_path / "a.npy", ct_volume(1, SIZE)[..., 0])
    own = str(write_tiny_weights(tmp_path / "own.pt"))
    for separator in ("::", "#"):
        with pytest.raises(ValueError, match="does not hold the weights"):
            restore(tmp_path / "a.npy", tmp_path / "out", bundle, weights=own, **{f"network_def{separator}dim": 16})


@pytest.mark.slow
def test_a_derived_series_records_its_network(tmp_path, bundle):
    ct_series(tmp_path / "in", slices=2, size=SIZE)
    restore(tmp_path / "in", tmp_path / "plain", bundle)
    restore(tmp_path / "in", tmp_path / "out", bundle, **{"network_def#use_checkpoint": True})
    texts = [pydicom.dcmread(next((tmp_path / name).iterdir())).DerivationDescription for name in ("plain", "out")]
    assert "network_def" not in texts[0]
    assert '"network_def.use_checkpoint": true' in texts[1]


@pytest.mark.slow
def test_a_series_restored_with_a_copy_of_a_bundle_does_not_pass_for_the_original_s(tmp_path, bundle):
    ct_series(tmp_path / "in", slices=1, size=SIZE)
    shutil.copytree(bundle, tmp_path / "my_ct")
    texts = []
    for folder in (bundle, tmp_path / "my_ct"):
        restore(tmp_path / "in", tmp_path / "out", folder, overwrite=True)
        text = read_series(tmp_path / "out").datasets[0].DerivationDescription
        texts.append(json.loads(text[text.index("{") :])["bundle"])
    assert texts == [bundle.name, f"my_ct (copy of {bundle.name})"]


def test_an_invalid_configuration_is_an_error(tmp_path, bundle):
    np.save(tmp_path / "a.npy", ct_volume(1, SIZE)[..., 0])
    copy = make_tiny_bundle(tmp_path / "copy")
    edit_json(
        copy / "configs" / "inference.json",
        lambda config: config["network_def"].update(_target_="medrestore_monai.networks.Nothing"),
    )
    with pytest.raises(Exception, match="Nothing"):
        restore(tmp_path / "a.npy", tmp_path / "out", copy)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_nothing_is_logged_and_the_loggers_of_the_caller_stay_as_they_were(tmp_path, bundle, caplog):
    logger = logging.getLogger("monai")
    caplog.set_level(logging.INFO, "monai")
    caplog.set_level(logging.INFO, "ignite")
    np.save(tmp_path / "a.npy", ct_volume(1, SIZE)[..., 0])
    restore(tmp_path / "a.npy", tmp_path / "out", bundle)
    assert logger.level == logging.INFO
    assert [record for record in caplog.records if not record.name.startswith("medrestore")] == []


def test_root_cause_unwraps_down_to_what_a_user_can_mend():
    def wrapped(cause):
        try:
            try:
                raise cause
            except Exception as error:
                raise RuntimeError("applying transform") from error
        except RuntimeError as error:
            return error

    bad = ValueError("bad slice")
    bad.__cause__ = KeyError("inner")
    assert root_cause(wrapped(wrapped(bad))) is bad
    full = OSError(28, "full")
    assert root_cause(wrapped(full)) is full
    plain = RuntimeError("out of memory")
    assert root_cause(wrapped(plain)) is plain
