"""Bits above those that the header declares: overlays, marks, missing signs, overflow (PS3.5 8.1.1)."""

import numpy as np
import phantoms
import pydicom
import pytest

from medrestore_monai.dicom import Derivation, DicomError, read_series, write_derived_series
from medrestore_monai.notes import Notes


def words_of(file):
    """All bits of a slice, shape (rows, columns); pydicom's own array has the declared ones only."""
    ds = pydicom.dcmread(file)
    return np.frombuffer(ds.PixelData, "<i2" if ds.PixelRepresentation else "<u2").reshape(ds.Rows, ds.Columns)


def change(files, edit):
    """Let ``edit`` change the words (rows, columns) of every slice, and its header."""
    for file in files:
        ds = pydicom.dcmread(file)
        words = words_of(file).copy()
        edit(ds, words)
        ds.PixelData = words.tobytes()
        ds.save_as(file)


def with_overlay(ds, words):
    words[3:6, 2:9] |= 1 << 14
    for element, vr, value in ((0x10, "US", 32), (0x11, "US", 32), (0x40, "CS", "G"), (0x50, "SS", [1, 1])):
        ds.add_new((0x6000, element), vr, value)
    ds.add_new((0x6000, 0x0100), "US", 16)
    ds.add_new((0x6000, 0x0102), "US", 14)


def test_an_overlay_in_the_pixels_becomes_overlay_data(tmp_path):
    change(phantoms.ct_series(tmp_path / "in", slices=2), with_overlay)
    with Notes() as notes:
        series = read_series(tmp_path / "in")
    assert notes.messages == []
    np.testing.assert_array_equal(series.array, phantoms.ct_volume(2, 32))
    for file in write_derived_series(series, series.array, tmp_path / "out", Derivation("denoise")):
        ds = pydicom.dcmread(file)
        assert ds.pixel_array.max() < 4096
        expected = np.zeros((32, 32), dtype=np.uint8)
        expected[3:6, 2:9] = 1
        np.testing.assert_array_equal(ds.overlay_array(0x6000), expected)
        assert (ds[0x6000, 0x0100].value, ds[0x6000, 0x0102].value) == (1, 0)


@pytest.mark.parametrize("signed", [False, True])
def test_marks_are_ignored_with_a_note_that_says_where(tmp_path, signed):
    def mark(ds, words):
        words[5, 7] ^= 1 << 13
        words[9, 3] ^= 1 << 12

    knobs = {"signed": True, "intercept": 0, "volume": phantoms.ct_volume(2, 32).clip(-1000, 1000)} if signed else {}
    files = phantoms.ct_series(tmp_path, slices=2, **knobs)
    expected = read_series(tmp_path).array
    change(files, mark)
    with Notes() as notes:
        series = read_series(tmp_path)
        np.testing.assert_array_equal(series.array, expected)
    (text,) = notes.messages
    assert "bits above the 12 that its header declares are ignored, in 2 voxel(s), the first at column 7, row 5" in text
    assert "and 1 more slices; `high_bits=keep`" in text
    kept = read_series(tmp_path, high_bits="keep")
    np.testing.assert_array_equal(kept.stored(0).T, words_of(kept.files[0].path))
    assert np.count_nonzero(kept.array != expected) == 4


def test_negative_values_without_the_repeated_sign(tmp_path):
    volume = phantoms.ct_volume(2, 32).clip(-1000, 1000)
    files = phantoms.ct_series(tmp_path, signed=True, intercept=0, volume=volume)

    def cut(ds, words):
        words &= 0x0FFF

    change(files, cut)
    with Notes() as notes:
        np.testing.assert_array_equal(read_series(tmp_path).array, volume)
    assert notes.messages == []


@pytest.mark.parametrize("signed", [False, True])
def test_overflow_is_refused_and_can_be_kept(tmp_path, signed):
    """A bright blob whose middle does not fit into the bits."""
    top = 2048 if signed else 4096
    blob = top + 300 - 12 * (np.hypot(*np.ogrid[-16:16, -16:16])[..., None] ** 2)
    volume = np.clip(np.rint(np.repeat(blob, 2, axis=2)), 10, None)
    phantoms.ct_series(tmp_path, volume=volume, signed=signed, intercept=0)
    with pytest.raises(DicomError, match=r"values outside the 12 bits .* `high_bits=keep` .* `high_bits=ignore`"):
        read_series(tmp_path)
    np.testing.assert_array_equal(read_series(tmp_path, high_bits="keep").array, volume)
    cut = volume.astype(int) % 4096
    np.testing.assert_array_equal(
        read_series(tmp_path, high_bits="ignore").array, np.where(cut >= top, cut - 4096, cut) if signed else cut
    )


def test_padding_keeps_its_whole_word(tmp_path):
    def pad(ds, words):
        words[:2] = 63536
        ds.add_new((0x0028, 0x0120), "US", 63536)

    change(phantoms.ct_series(tmp_path / "in", slices=2), pad)
    with Notes() as notes:
        series = read_series(tmp_path / "in")
    assert notes.messages == []
    assert (series.stored(0)[:, :2] == 63536).all()
    (file, _) = write_derived_series(series, series.array, tmp_path / "out", Derivation("denoise"))
    np.testing.assert_array_equal(words_of(file).T, series.stored(0))


def test_an_unknown_choice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="high_bits must be one of auto, keep, ignore, got 'all'"):
        read_series(tmp_path, high_bits="all")
