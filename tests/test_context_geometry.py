"""Which slices a network with neighbors is given: pictures, gaps, tilted gantries and oblique stacks, from files."""

import nibabel as nib
import numpy as np
import pytest
import torch
from phantoms import ct_series, ct_volume, mr_series
from PIL import Image
from tiny_bundle import make_tiny_bundle
from torch.testing import assert_close

from medrestore_monai.dicom import read_series
from medrestore_monai.inferers import SliceWiseInferer
from medrestore_monai.networks import RestoreRWKV
from medrestore_monai.restorer import restore

CT, MR, ALL = "ct_denoise_restore_rwkv", "mri_superresolution_restore_rwkv", "all_in_one_restore_rwkv"
SIZE, SLICES = (33, 26), 7
ALONE = "Each slice was restored without its neighbors: the distance of its slices is unknown, or they are tilted"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {name: make_tiny_bundle(folder, name, context=2) for name in (CT, MR, ALL)}


def offsets(source, output):
    """For each restored slice in order of position, the offsets of the slices that took part; and the headers."""
    series = [read_series(folder, allow_gaps=True).datasets for folder in (source, output)]
    number = {str(header.SOPInstanceUID): index for index, header in enumerate(series[0])}
    used = [
        sorted(number[str(item.ReferencedSOPInstanceUID)] - index for item in header.SourceImageSequence)
        for index, header in enumerate(series[1])
    ]
    return used, series[1]


def quietly(*arguments, **options):
    assert "Each slice was restored" not in str(restore(*arguments, **options).notes)


@pytest.mark.slow
def test_an_oblique_mr_stack_has_all_its_neighbors(bundles, tmp_path):
    mr_series(tmp_path / "mr", SLICES, SIZE)
    quietly(tmp_path / "mr", tmp_path / "out", bundles[MR])
    used, headers = offsets(tmp_path / "mr", tmp_path / "out")
    assert used == [[0, 1, 2], [-1, 0, 1, 2], *[[-2, -1, 0, 1, 2]] * (SLICES - 4), [-2, -1, 0, 1], [-2, -1, 0]]
    assert '"context": 2' in headers[0].DerivationDescription


@pytest.mark.slow
def test_a_stack_with_a_gap_has_no_neighbors_beyond_it(bundles, tmp_path):
    ct_series(tmp_path / "ct", SLICES, SIZE, skip=[3])
    quietly(tmp_path / "ct", tmp_path / "out", bundles[CT], allow_gaps=True)
    used, _ = offsets(tmp_path / "ct", tmp_path / "out")
    assert used == [[0, 1, 2], [-1, 0, 1], [-2, -1, 0], [0, 1, 2], [-1, 0, 1], [-2, -1, 0]]


@pytest.mark.slow
def test_a_tilted_stack_is_restored_as_single_slices_with_a_note(bundles, tmp_path):
    """A DICOM series with a tilted gantry is refused when it is read; a NIfTI file with a sheared grid is not."""
    affine = np.diag([0.8, 0.8, 2.5, 1.0])
    affine[1, 2] = 2.5 * np.tan(np.radians(15))
    nib.save(nib.Nifti1Image(ct_volume(SLICES, SIZE), affine), tmp_path / "tilted.nii")
    assert ALONE in str(restore(tmp_path / "tilted.nii", tmp_path / "out.nii", bundles[CT]).notes)
    quietly(tmp_path / "tilted.nii", tmp_path / "alone.nii", bundles[CT], context=0)
    ours, alone = (nib.load(tmp_path / name).get_fdata() for name in ("out.nii", "alone.nii"))
    np.testing.assert_allclose(ours, alone, rtol=0, atol=0.01)  # HU: sums over five copies are rounded another way
    assert np.abs(ours - ct_volume(SLICES, SIZE)).mean() > 5


@pytest.mark.slow
def test_a_picture_is_restored_with_copies_of_itself(bundles, tmp_path):
    gray = ((ct_volume(1, SIZE)[..., 0] + 1024).clip(0) / 8).clip(0, 255).astype(np.uint8)
    Image.fromarray(gray.T).save(tmp_path / "slice.png")
    quietly(tmp_path / "slice.png", tmp_path / "out.png", bundles[MR])
    quietly(tmp_path / "slice.png", tmp_path / "alone.png", bundles[MR], context=0)
    ours, alone = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("out.png", "alone.png"))
    assert np.abs(ours - alone).max() <= 1
    assert not np.array_equal(ours, gray.T)


@pytest.mark.slow
def test_spacings_beyond_what_was_trained_are_noted(bundles, tmp_path):
    volume = nib.Nifti1Image(ct_volume(SLICES, SIZE).astype(np.int16), np.diag([0.8, 0.8, 10, 1]))
    nib.save(volume, tmp_path / "thick.nii.gz")
    notes = restore(tmp_path / "thick.nii.gz", tmp_path / "out.nii.gz", bundles[CT]).notes
    assert "its slices are 10 mm apart, where the network knows 0.5 to 5 mm" in str(notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", [CT, ALL])
def test_slabs_of_ct_with_metal_give_equal_stored_values(bundles, tmp_path, name):
    volume = ct_volume(SLICES, SIZE)
    volume[12:15, 10:13], volume[:2] = 12000, -3024
    ct_series(tmp_path / "ct", volume=volume, signed=True, bits_stored=16)
    stored = {}
    for slab in (0, 1, 3):
        restore(tmp_path / "ct", tmp_path / f"out{slab}", bundles[name], slab=slab)
        stored[slab] = read_series(tmp_path / f"out{slab}").array
    for slab in (1, 3):
        np.testing.assert_array_equal(stored[slab], stored[0])
    outside = (volume < -1024) | (volume > 3072)
    np.testing.assert_array_equal(stored[1][outside], volume[outside])
    assert (stored[1] != volume)[~outside].mean() > 0.5


def test_one_and_two_threads_agree():
    torch.manual_seed(0)
    network = RestoreRWKV(dim=8, num_blocks=[1, 1, 1, 1], num_refinement_blocks=1, context=2).eval()
    torch.nn.init.normal_(network.output.weight, std=0.02)
    slab, restored, before = torch.rand(1, 5, 72, 65), [], torch.get_num_threads()
    try:
        with torch.inference_mode():
            for threads in (1, 2):
                torch.set_num_threads(threads)
                restored.append(SliceWiseInferer(context=2)(slab, network))
    finally:
        torch.set_num_threads(before)
    assert (restored[0] - slab[:, 2:3]).abs().mean() > 1e-3
    assert_close(restored[1], restored[0], rtol=0, atol=1e-6)
