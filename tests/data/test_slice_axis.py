"""Slices of a volume lie across the axis that its header suggests, and the result is that of the axial file."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from phantoms import ct_volume
from tiny_bundle import make_tiny_bundle
from typer.testing import CliRunner

from medrestore_monai.cli import app
from medrestore_monai.data import LoadImageOrSeriesd
from medrestore_monai.degrader import degrade
from medrestore_monai.images import choose_slice_axis, read_header, slice_order
from medrestore_monai.restorer import Restorer, restore

SHAPE = (40, 36, 5)


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [
        ((0.8, 0.8, 0.625), 2),
        ((1.2, 1, 1), 0),
        ((5, 0.7, 0.7), 0),
        ((0.7, 5, 0.71), 1),
        ((1, 1, 1), 2),
        ((1, 1.015, 1.005), 2),
        ((1, 1.015, 1.03), 2),  # each equal to its neighbor
        ((1, 2, 3), 2),
        ((0.9, 0.9, 3), 2),
    ],
)
def test_the_odd_spacing_is_that_of_the_slices(spacing, axis):
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]  # an oblique volume has the same spacing
    for directions in (np.diag([-1, -1, 1]), turned):
        affine = np.eye(4)
        affine[:3, :3] = directions * spacing
        assert choose_slice_axis((9, 8, 7), affine) == axis
        assert choose_slice_axis((9, 8, 7), affine, slice_dim=1) == 1
        assert choose_slice_axis((9, 1, 7), affine, slice_dim=2) == 1
        assert choose_slice_axis((9, 8, 1), affine) == 2


def save(path, volume, order=(0, 1, 2), spacing=(0.8, 0.8, 5.0), slice_dim=None):
    """Write a volume with its axes in another order."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])[:, [*order, 3]]
    image = nib.Nifti1Image(np.ascontiguousarray(volume.transpose(order)).astype(np.int16), affine)
    if slice_dim is not None:
        image.header.set_dim_info(slice=slice_dim)
    image.to_filename(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def restorer(config):
    return Restorer(config)


@pytest.fixture(scope="module", params=[(0.8, 0.8, 0.625), (1, 1, 1.2), (0.7, 0.7, 5)], ids=str)
def axial(request, restorer, tmp_path_factory):
    """The spacing of a volume whose slices lie across its third axis, and its restored voxels."""
    folder = tmp_path_factory.mktemp("axial")
    save(folder / "axial.nii", ct_volume(SHAPE[2], SHAPE[:2]), spacing=request.param)
    restorer.restore_file(folder / "axial.nii", folder / "a.nii")
    return request.param, np.asarray(nib.load(folder / "a.nii").dataobj)


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_exchanged_axes_give_the_values_of_the_axial_file(tmp_path, restorer, order, axial):
    volume, (spacing, expected) = ct_volume(SHAPE[2], SHAPE[:2]), axial
    save(tmp_path / "other.nii", volume, order, spacing)
    result = restorer.restore_file(tmp_path / "other.nii", tmp_path / "b.nii")
    notes = [note for note in result.notes if "slices lie across axis" in note]
    assert len(notes) == (order[2] != 2)
    found = nib.load(tmp_path / "b.nii")
    np.testing.assert_array_equal(found.affine, nib.load(tmp_path / "other.nii").affine)
    assert (expected != volume).mean() > 0.5
    if order != (1, 0, 2):  # slices that lie across the third axis stay as they are
        np.testing.assert_array_equal(np.asarray(found.dataobj), expected.transpose(order))


def test_the_header_and_the_user_come_before_the_spacing(tmp_path, config):
    volume = ct_volume(SHAPE[2], SHAPE[:2])
    save(tmp_path / "axial.nii", volume, spacing=(1, 1, 1))
    save(tmp_path / "named.nii", volume, (2, 0, 1), (1, 1, 1), slice_dim=0)
    save(tmp_path / "plain.nii", volume, (2, 0, 1), (1, 1, 1))
    restore(tmp_path / "axial.nii", tmp_path / "a.nii", config)
    expected = np.asarray(nib.load(tmp_path / "a.nii").dataobj).transpose(2, 0, 1)
    notes = restore(tmp_path / "named.nii", tmp_path / "b.nii", config).notes
    assert any("named.nii: by its header" in note and "across axis 0, not the third" in note for note in notes)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "b.nii").dataobj), expected)
    root = str(config)
    command = ["restore", str(tmp_path / "plain.nii"), "-o", str(tmp_path / "c.nii"), "--bundle", root]
    result = CliRunner().invoke(app, [*command, "--slice-axis", "0", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "c.nii").dataobj), expected)
    assert CliRunner().invoke(app, [*command, "--slice-axis", "3"]).exit_code == 2


def test_degraded_slices_are_those_of_the_axial_file(tmp_path):
    volume = ct_volume(3, SHAPE[:2])
    for name, order in (("axial", (0, 1, 2)), ("other", (2, 0, 1))):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "x.nii", volume, order)
    options = {"task": "gaussian_blur", "sigma": 1.0, "noise_std": 5.0}
    degrade(tmp_path / "axial" / "x.nii", tmp_path / "a.nii", **options)
    with pytest.warns(UserWarning, match="across axis 0"):
        degrade(tmp_path / "other" / "x.nii", tmp_path / "b.nii", **options)
    a, b = (np.asarray(nib.load(tmp_path / name).dataobj) for name in ("a.nii", "b.nii"))
    np.testing.assert_array_equal(b, a.transpose(2, 0, 1))


def test_lists_of_slices_know_the_axis(tmp_path):
    volume = ct_volume(SHAPE[2], SHAPE[:2])
    save(tmp_path / "a.nii", volume, (2, 0, 1))
    header = read_header(tmp_path / "a.nii")
    assert (header.size, header.slices) == (SHAPE[:2], SHAPE[2])
    with pytest.warns(UserWarning, match="across axis 0"):
        item = LoadImageOrSeriesd("image", modality="CT")({"image": tmp_path / "a.nii", "slice": 3})
    np.testing.assert_array_equal(item["image"][0], volume[..., 3])
    np.testing.assert_allclose(item["image"].affine, np.diag([-0.8, -0.8, 5, 1]))


def test_axes_keep_their_order_among_themselves():
    assert slice_order(np.eye(4), 0) == (1, 2, 0)
    assert slice_order(np.eye(4)[:, [2, 1, 0, 3]], 0) == (2, 1, 0)
    with pytest.raises(ValueError, match="slice_axis must be 0, 1 or 2, got 3"):
        LoadImageOrSeriesd("image", slice_axis=3)
