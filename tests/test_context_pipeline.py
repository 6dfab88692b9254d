"""A bundle with neighboring slices, from file to file: slabs, batches and backends change no stored value."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
from phantoms import pet_series
from tiny_bundle import make_tiny_bundle

from medrestore_monai.restorer import restore

SLICES = 11


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    make_tiny_bundle(folder, "pet_synthesis_restore_rwkv", context=2)
    random = np.random.default_rng(0)
    volume = (random.random((32, 32, SLICES)) * 20000).round()
    pet_series(folder / "pet", volume=volume, spacing=(2.0, 2.0), distance=4.0)
    gap = pet_series(folder / "gap", volume=volume, spacing=(2.0, 2.0), distance=4.0)
    gap[5].unlink()
    return folder


def in_order(folder):
    """The files of a series by position; those of the phantom have names in another order."""
    return sorted(folder.iterdir(), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))


def run(place, output, source="pet", **settings):
    bundle = place / "pet_synthesis_restore_rwkv"
    restore(place / source, output, bundle, overwrite=True, **settings)
    return np.stack([pydicom.dcmread(path).pixel_array for path in sorted(output.iterdir())])


@pytest.fixture(scope="module")
def whole(place):
    return run(place, place / "whole", slab=0)


@pytest.mark.slow
@pytest.mark.parametrize("slab", [1, 4, 8, 32])
def test_slabs_give_equal_stored_values(place, whole, tmp_path, slab):
    np.testing.assert_array_equal(run(place, tmp_path / "out", slab=slab), whole)


@pytest.mark.slow
def test_slabs_of_a_long_volume_give_equal_stored_values(place, tmp_path):
    """More slices than the usual slab of 32, in a file."""
    volume = np.random.default_rng(2).random((17, 24, 37)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.diag([3.0, 3.0, 3.0, 1.0])), tmp_path / "long.nii")
    stored = {}
    for slab in (0, 32):
        restore(tmp_path / "long.nii", tmp_path / f"{slab}.nii", place / "pet_synthesis_restore_rwkv", slab=slab)
        stored[slab] = np.asarray(nib.load(tmp_path / f"{slab}.nii").dataobj)
    assert np.abs(stored[0] - volume).mean() > 0.01
    np.testing.assert_array_equal(stored[32], stored[0])


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 4])
def test_batches_give_equal_values_but_for_rounding(place, whole, tmp_path, size):
    stored = run(place, tmp_path / "out", slab=8, slice_batch_size=size).astype(int)
    assert np.abs(stored - whole).max() <= 1  # of 32767: products of more rows add up in another order


@pytest.mark.slow
def test_onnx_gives_the_same(place, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert np.abs(run(place, tmp_path / "out", backend="onnx").astype(int) - whole).max() <= 1


@pytest.mark.slow
def test_neighbors_change_the_result_and_context_0_is_without(place, whole, tmp_path):
    alone = run(place, tmp_path / "alone", context=0)
    assert not np.array_equal(alone, whole)
    single = tmp_path / "single"
    single.mkdir()
    file = in_order(place / "pet")[4]
    (single / file.name).write_bytes(file.read_bytes())
    bundle = place / "pet_synthesis_restore_rwkv"
    restore(single, tmp_path / "one", bundle)
    (one,) = (pydicom.dcmread(path).pixel_array for path in (tmp_path / "one").iterdir())
    assert np.abs(one.astype(int) - alone[4]).max() <= 1  # a slice alone is one whose neighbors are copies


@pytest.mark.slow
def test_the_header_names_the_slices_that_took_part(place, whole, tmp_path):
    counts = [len(pydicom.dcmread(path).SourceImageSequence) for path in sorted((place / "whole").iterdir())]
    assert counts == [3, 4, *[5] * (SLICES - 4), 4, 3]
    assert '"context": 2' in pydicom.dcmread(next((place / "whole").iterdir())).DerivationDescription
    run(place, tmp_path / "gap", "gap", allow_gaps=True)
    numbers = [len(pydicom.dcmread(path).SourceImageSequence) for path in sorted((tmp_path / "gap").iterdir())]
    assert numbers == [3, 4, 5, 4, 3, 3, 4, 5, 4, 3]
    run(place, tmp_path / "alone", context=0)
    assert {len(pydicom.dcmread(path).SourceImageSequence) for path in (tmp_path / "alone").iterdir()} == {1}


@pytest.mark.slow
def test_slices_too_far_apart_are_restored_alone_with_a_note(place, tmp_path):
    bundle = place / "pet_synthesis_restore_rwkv"
    volume = np.random.default_rng(1).random((24, 24, 5)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.diag([3.0, 3.0, 9.0, 1.0])), tmp_path / "far.nii")
    _, note = restore(tmp_path / "far.nii", tmp_path / "out.nii", bundle).notes  # the first is on the unit
    assert "without its neighbors: its slices are 9 mm apart, where the network knows 2 to 5" in note
    restore(tmp_path / "far.nii", tmp_path / "alone.nii", bundle, context=0)
    far, alone = (nib.load(tmp_path / name).get_fdata() for name in ("out.nii", "alone.nii"))
    np.testing.assert_allclose(far, alone, atol=1e-5)


@pytest.mark.slow
def test_a_volume_cut_in_two_with_halo_agrees(place, whole, tmp_path):
    """What slices get does not depend on what lies beyond their neighbors."""
    files = in_order(place / "pet")
    for name, part, inner in (("first", slice(0, 8), slice(0, 6)), ("second", slice(4, None), slice(6, None))):
        (tmp_path / name).mkdir()
        for file in files[part]:
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        bundle = place / "pet_synthesis_restore_rwkv"
        restore(tmp_path / name, tmp_path / f"{name}_out", bundle)
        stored = [pydicom.dcmread(path).pixel_array for path in sorted((tmp_path / f"{name}_out").iterdir())]
        first = part.start
        kept = stored[inner.start - first : None if inner.stop is None else inner.stop - first]
        np.testing.assert_array_equal(np.stack(kept), whole[inner])
