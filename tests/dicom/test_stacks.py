"""A series of several stacks is split by what differs between them, where places are taken twice, and only there."""

import re

import numpy as np
import phantoms
import pydicom
import pytest
from pydicom.uid import generate_uid

from medrestore_monai.dicom import Derivation, DicomError, read_series, read_stacks, write_derived_series
from medrestore_monai.notes import Notes


def put(folder, parts, slices=4, write=phantoms.mr_series, **knobs):
    """Write one series of several parts, with other header elements and other voxels, in a folder each."""
    volume = phantoms.ct_volume(slices, 16) + 1024 * (write is phantoms.mr_series)
    count = 0
    for number, values in enumerate(parts):

        def edit(ds, index, values=values, number=number):
            nonlocal count
            count += 1
            ds.SOPInstanceUID, ds.InstanceNumber = generate_uid(), count
            for keyword, value in values.items():
                value = value(index) if callable(value) else value
                if keyword == "private":
                    group, creator, element, vr, text = value
                    ds.private_block(group, creator, create=True).add_new(element, vr, text)
                else:
                    setattr(ds, keyword, value)

        write(folder / f"{number}", volume=volume + 10 * number, **{"edit": edit, **knobs})
    return folder


def names(folder):
    return [str(stack.name) for stack in read_stacks(folder)]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([{"EchoTime": 9.8}, {"EchoTime": 4.9}], ["echo 1 of 2, 4.9 ms", "echo 2 of 2, 9.8 ms"]),
        ([{"EchoNumbers": 2}, {"EchoNumbers": 1}], ["echo 1 of 2", "echo 2 of 2"]),
        ([{"TemporalPositionIdentifier": n} for n in (1, 2, 3)], [f"time point {n} of 3" for n in (1, 2, 3)]),
        ([{"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}], ["acquisition 1 of 2", "acquisition 2 of 2"]),
        ([{"ImageType": ["DERIVED", "PRIMARY", w]} for w in ("W", "F")], ["image type 1 of 2", "image type 2 of 2"]),
        ([{"FlipAngle": 4}, {"FlipAngle": 18}], ["flip angle 1 of 2, 4 degrees", "flip angle 2 of 2, 18 degrees"]),
        (
            [{"NominalPercentageOfCardiacPhase": n} for n in (70, 40)],
            ["cardiac phase 1 of 2, 40 %", "cardiac phase 2 of 2, 70 %"],
        ),
        (
            [{"private": (0x0043, "GEMS_PARM_01", 0x39, "IS", [b, 0, 0])} for b in (1000000800, 1000000000)],
            ["b-value 1 of 2, 0 s/mm2", "b-value 2 of 2, 800 s/mm2"],
        ),
        (
            [{"private": (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", b)} for b in (0, 500)],
            ["b-value 1 of 2, 0 s/mm2", "b-value 2 of 2, 500 s/mm2"],
        ),
        # noise in the first is no reason
        (
            [{"TriggerTime": lambda i, n=n: 10 * i + 100 * n, "FrameReferenceTime": 5.0 * n} for n in (1, 2)],
            ["frame 1 of 2, 5 ms", "frame 2 of 2, 10 ms"],
        ),
    ],
)
def test_the_attribute_that_differs_tells_stacks_apart(tmp_path, parts, expected):
    put(tmp_path, parts)
    stacks = read_stacks(tmp_path)
    assert [str(stack.name) for stack in stacks] == expected
    assert all(stack.shape == (16, 16, 4) and stack.regular for stack in stacks)
    for stack in stacks:  # each is one of the parts that were written
        assert len({file.path.parent for file in stack.files}) == 1
        same = np.moveaxis(np.stack([pydicom.dcmread(file.path).pixel_array.T for file in stack.files]), 0, -1)
        np.testing.assert_array_equal(stack.array, same)


@pytest.mark.slow
def test_two_attributes_together(tmp_path):
    put(tmp_path, [{"EchoTime": e, "TemporalPositionIdentifier": t} for e in (5, 10) for t in (1, 2)])
    assert names(tmp_path)[:2] == ["time point and echo 1 of 4, 5 ms", "time point and echo 2 of 4, 10 ms"]
    folders = [stack.name.folder for stack in read_stacks(tmp_path)]
    assert folders[3] == "stack04_time_point_and_echo"


def test_what_varies_within_one_volume_splits_nothing(tmp_path):
    phantoms.ct_series(tmp_path, slices=6, edit=_noisy)
    (series,) = read_stacks(tmp_path)
    assert series.shape == (32, 32, 6)


def _noisy(ds, index):
    ds.AcquisitionNumber, ds.ExposureTime, ds.KVP, ds.TriggerTime = 4 + index // 3, 100 + index, 80 + index, 7.0 * index


def test_nothing_but_time_tells_them_apart(tmp_path):
    times = [{"AcquisitionTime": lambda i, n=n: f"10{n:02d}{i:02d}"} for n in (20, 10, 30)]
    put(tmp_path, times)
    stacks = read_stacks(tmp_path)
    assert [str(one.name) for one in stacks] == [f"time point {n} of 3" for n in (1, 2, 3)]
    assert [one.files[0].path.parent.name for one in stacks] == ["1", "0", "2"]


@pytest.mark.slow
def test_an_interrupted_last_volume_is_a_stack_of_its_own_length(tmp_path):
    put(tmp_path, [{"AcquisitionTime": f"1010{n:02d}"} for n in range(3)])
    last = sorted((tmp_path / "2").iterdir(), key=lambda file: pydicom.dcmread(file).ImagePositionPatient[2])
    last[-1].unlink()
    assert [stack.shape[2] for stack in read_stacks(tmp_path)] == [4, 4, 3]


@pytest.mark.parametrize("lost", range(5))
@pytest.mark.parametrize("edge", [0, -1])
@pytest.mark.parametrize("times", ["of volumes", "of slices", "downwards", "by place"])
def test_a_slice_lost_of_a_time_series_never_mixes_volumes(tmp_path, times, edge, lost):
    """The volumes after it would each take a slice of the next one."""
    forms = {
        "of volumes": lambda i, n: f"10{n:02d}00",
        "of slices": lambda i, n: f"10{n:02d}{i:02d}",
        "downwards": lambda i, n: f"10{n:02d}{9 - i:02d}",
        "by place": lambda i, n: f"10{i:02d}{n:02d}",
    }
    form = forms[times]
    parts = [{"AcquisitionTime": lambda i, n=n: form(i, n), "InstanceNumber": lambda i, n=n: 0} for n in range(5)]
    put(tmp_path, parts)
    for number, file in enumerate(sorted(tmp_path.rglob("*.dcm"), key=lambda f: pydicom.dcmread(f).AcquisitionTime)):
        ds = pydicom.dcmread(file)
        ds.InstanceNumber = number + 1
        ds.save_as(file)
    assert [stack.shape[2] for stack in read_stacks(tmp_path)] == [4] * 5
    files = sorted((tmp_path / f"{lost}").iterdir(), key=lambda f: pydicom.dcmread(f).ImagePositionPatient[2])
    files[edge].unlink()
    if lost == 4 and times != "by place":
        stacks = read_stacks(tmp_path)
        assert [stack.shape[2] for stack in stacks] == [4, 4, 4, 4, 3]
        assert all(len({file.path.parent for file in stack.files}) == 1 for stack in stacks)
        return
    with pytest.raises(DicomError, match=r"4 files lie at the position of .* and 5 at others, .* which time point"):
        read_stacks(tmp_path)


@pytest.mark.parametrize("lost", [(3, 0), (1, 0)])
def test_interleaved_slices_with_pauses_between_volumes(tmp_path, lost):
    """Slices 0, 2, 1, 3 every two seconds, a volume every twenty, and instance numbers place by place."""
    order = [0, 2, 1, 3]
    seconds = lambda i, n: 50 + 20 * n + 2 * order[i]  # noqa: E731
    parts = [
        {
            "AcquisitionTime": lambda i, n=n: f"10{seconds(i, n) // 60:02d}{seconds(i, n) % 60:02d}",
            "InstanceNumber": lambda i, n=n: 10 * i + n,
        }
        for n in range(4)
    ]
    put(tmp_path, parts)
    volume, place = lost
    sorted((tmp_path / f"{volume}").iterdir(), key=lambda f: pydicom.dcmread(f).ImagePositionPatient[2])[place].unlink()
    if volume == 3:
        stacks = read_stacks(tmp_path)
        assert [stack.shape[2] for stack in stacks] == [4, 4, 4, 3]
        assert all(len({file.path.parent for file in stack.files}) == 1 for stack in stacks)
    else:
        with pytest.raises(DicomError, match="which time point lacks a slice"):
            read_stacks(tmp_path)


def test_a_stack_with_a_hole_is_refused(tmp_path):
    put(tmp_path, [{"EchoTime": 5}, {"EchoTime": 10}], slices=5)
    files = sorted((tmp_path / "1").iterdir(), key=lambda file: pydicom.dcmread(file).ImagePositionPatient[2])
    files[2].unlink()
    with pytest.raises(DicomError, match=r"1 slice\(s\) missing between 1/"):
        read_stacks(tmp_path)


def test_one_place_and_nothing_that_differs(tmp_path):
    put(tmp_path, [{}, {"InstanceNumber": 1}])
    for file in tmp_path.rglob("*.dcm"):
        ds = pydicom.dcmread(file)
        ds.InstanceNumber = 1
        ds.save_as(file)
    with pytest.raises(DicomError, match=r"lie at the same position, and nothing in their headers .* folders of its"):
        read_stacks(tmp_path)


def test_copies_are_dropped_with_a_note(tmp_path):
    phantoms.ct_series(tmp_path, slices=4, duplicate=2)
    with Notes() as notes:
        series = read_series(tmp_path)
    assert "passed over: a copy of another slice" in notes.messages[0]
    np.testing.assert_array_equal(series.array, phantoms.ct_volume(4, 32))


@pytest.mark.parametrize("marked", [True, False])
def test_a_scout_within_a_series_is_left_out_with_a_note(tmp_path, marked):
    phantoms.ct_series(tmp_path, slices=4)

    def scout(ds, index):
        ds.SOPInstanceUID = generate_uid()
        ds.SeriesInstanceUID = generate_uid(entropy_srcs=["series", "a"])
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if marked else "AXIAL"]

    coronal = (1, 0, 0, 0, 0, -1)
    phantoms.ct_series(tmp_path / "scout", slices=1, size=(20, 40), orientation=coronal, series="b", edit=scout)
    with Notes() as notes:
        series = read_series(tmp_path)
    assert series.shape == (32, 32, 4)
    assert re.search(r"^scout/b\d+\.dcm passed over: .*scout", notes.messages[0])


@pytest.mark.parametrize("kinds", [["P", "NORM"], ["SW_P_FFE", "P"], ["M_FFE", "VELOCITY MAP"], ["FIELD_MAP"]])
def test_phases_and_maps_beside_magnitudes_are_left_out(tmp_path, kinds):
    put(tmp_path, [{"ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"]}, {"ImageType": ["ORIGINAL", "PRIMARY", *kinds]}])
    with Notes() as notes:
        series = read_series(tmp_path)
    assert {file.path.parent.name for file in series.files} == {"0"}
    assert "and 3 more passed over" in notes.messages[0]


def test_in_and_opposed_phase_images_are_magnitudes(tmp_path):
    words = ("WATER", "IN_PHASE", "OUT_OF_PHASE", "OPP_PHASE", "FAT_FRACTION")
    put(tmp_path, [{"ImageType": ["DERIVED", "PRIMARY", "DIXON", word]} for word in words])
    with Notes() as notes:
        stacks = read_stacks(tmp_path)
    assert sorted(str(stack.files[0].path.parent.name) for stack in stacks) == ["0", "1", "2", "3"]
    assert "and 3 more passed over: a map that was computed" in notes.messages[0]


@pytest.mark.slow
def test_two_orientations_and_two_sides_are_stacks(tmp_path):
    put(tmp_path / "o", [{}, {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}], write=phantoms.ct_series)
    for file in (tmp_path / "o" / "1").iterdir():  # along the normal of the second orientation
        ds = pydicom.dcmread(file)
        ds.ImagePositionPatient = [-float(ds.ImagePositionPatient[2]), 0, 0]
        ds.save_as(file)
    assert names(tmp_path / "o") == ["part 1 of 2", "part 2 of 2"]
    left, right = ({"ImagePositionPatient": lambda i, x=x: [x, 0, 3 * i]} for x in (-90, 60))
    put(tmp_path / "s", [left, right], write=phantoms.ct_series)
    assert names(tmp_path / "s") == ["position 1 of 2", "position 2 of 2"]


def test_rotating_projections_are_a_set_of_single_images(tmp_path):
    def turned(ds, index):
        angle = np.radians(20 * index)
        ds.ImageOrientationPatient = [round(float(np.cos(angle)), 8), round(float(np.sin(angle)), 8), 0, 0, 0, -1]

    phantoms.mr_series(tmp_path, slices=5, edit=turned)
    series = read_series(tmp_path)
    assert series.independent
    assert series.slice_steps.tolist() == [0] * 4
    assert [int(ds.InstanceNumber) for ds in series.datasets] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_read_series_asks_for_one_of_several_stacks(tmp_path):
    put(tmp_path, [{"EchoTime": 5}, {"EchoTime": 10}])
    with pytest.raises(DicomError, match=r"2 stacks, .*`stack`: echo 1 of 2, 5 ms; echo 2 of 2, 10 ms"):
        read_series(tmp_path)
    assert str(read_series(tmp_path, stack=2).name) == "echo 2 of 2, 10 ms"
    with pytest.raises(DicomError, match="no stack 3"):
        read_series(tmp_path, stack=3)


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True])
def test_the_derived_series_mirrors_the_source(tmp_path, split):
    put(tmp_path / "in", [{"EchoTime": 5}, {"EchoTime": 10}])
    stacks = read_stacks(tmp_path / "in")
    images = [stack.array for stack in stacks]
    written = write_derived_series(stacks, images, tmp_path / "out", Derivation("denoise"), split_series=split)
    assert [file.parent.name for file in written] == ["stack01_echo"] * 4 + ["stack02_echo"] * 4
    headers = [pydicom.dcmread(file) for file in written]
    assert len({ds.SeriesInstanceUID for ds in headers}) == 1 + split
    assert len({ds.SOPInstanceUID for ds in headers}) == 8
    sources = [ds for stack in stacks for ds in stack.datasets]
    assert [ds.InstanceNumber for ds in headers] == [ds.InstanceNumber for ds in sources]
    assert all("echo 2 of 2, 10 ms [MEDRESTORE" in ds.SeriesDescription for ds in headers[4:]) is split
    for stack, folder in zip(stacks, ("stack01_echo", "stack02_echo"), strict=True):
        np.testing.assert_array_equal(read_series(tmp_path / "out" / folder).array, stack.array)
    if not split:
        assert names(tmp_path / "out") == names(tmp_path / "in")
    # the same again, in place of the first
    again = write_derived_series(stacks, images, tmp_path / "out", Derivation("denoise"), True, split)
    assert [pydicom.dcmread(file).SOPInstanceUID for file in again] == [ds.SOPInstanceUID for ds in headers]
