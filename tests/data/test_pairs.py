"""Pairs in every layout are found, read as they are, and what is wrong with them is in one error."""

import numpy as np
import pytest
import tifffile
from monai.bundle import ConfigParser
from monai.data import CacheDataset
from phantoms import ct_series, ct_volume
from PIL import Image

from medrestore_monai.data import (
    LoadImageOrSeriesd,
    PatientSplit,
    check_items,
    gopro,
    low_dose_ct,
    paired_folders,
    realblur,
)
from medrestore_monai.engines.errors import root_cause
from medrestore_monai.images import write_image

LOAD = LoadImageOrSeriesd(["image", "label"])


def picture(seed, shape=(6, 9, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path, pixels):
    """Write rows x columns pixels, or a volume, with the format's own library; returns what reading must give."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    elif path.suffix == ".npy":
        np.save(path, pixels.T)
    elif path.suffix == ".gz":
        write_image(path, pixels.T)
    else:
        options = {"quality": 100, "subsampling": 0} if path.suffix in (".jpg", ".jpeg") else {}
        Image.fromarray(pixels).save(path, **options)
        pixels = np.asarray(Image.open(path))
    return pixels.T if pixels.ndim == 3 or path.suffix == ".gz" else pixels.T[None]


@pytest.mark.parametrize(
    ("degraded", "clean"), [(".png", ".png"), (".jpg", ".png"), (".jpeg", ".tif"), (".tiff", ".jpg")]
)
@pytest.mark.parametrize("shape", [(6, 9, 3), (7, 5)])
def test_pictures_of_all_formats_pair_by_name(tmp_path, degraded, clean, shape):
    expected = {}
    for number, name in enumerate(["p1/a", "p1/b.1", "p2/a"]):
        image = write(tmp_path / "LQ" / f"{name}{degraded}", picture(number, shape))
        expected[name] = image, write(tmp_path / "HQ" / f"{name}{clean}", picture(10 + number, shape))
    items = paired_folders(tmp_path, channels=len(shape) * 2 - 3)
    assert [(item["name"], item["patient"], item["slice"]) for item in items] == [
        (f"p1/a{clean}", "p1", 0),
        (f"p1/b.1{clean}", "p1", 0),
        (f"p2/a{clean}", "p2", 0),
    ]
    for item, (image, label) in zip(items, expected.values(), strict=True):
        loaded = LOAD(item)
        np.testing.assert_array_equal(loaded["image"].numpy(), image)
        np.testing.assert_array_equal(loaded["label"].numpy(), label)


@pytest.mark.slow
def test_volumes_and_series_pair_slice_by_slice(tmp_path):
    volume = ct_volume(4, (8, 10))
    write_image_pair = {"LQ": volume + 7, "HQ": volume}
    for side, values in write_image_pair.items():
        (tmp_path / side / "p1").mkdir(parents=True)
        write_image(tmp_path / side / "p1" / "a.nii.gz", values.astype(np.int16))
        np.save(tmp_path / side / "flat.npy", values[..., :3])
        ct_series(tmp_path / side / "p2" / "scan", volume=values, series=side)
    items = paired_folders(tmp_path, channels=1)
    assert [(item["patient"], item["slice"]) for item in items] == [
        *[("flat", number) for number in range(3)],
        *[("p1", number) for number in range(4)],
        *[("p2", number) for number in range(4)],
    ]
    for item in items:
        loaded = LOAD(item)
        np.testing.assert_array_equal(loaded["label"].numpy()[0], volume[..., item["slice"]])
        np.testing.assert_array_equal(loaded["image"].numpy()[0], volume[..., item["slice"]] + 7)


def test_one_couple_of_folders_a_patient(tmp_path):
    for patient in ("site/p1", "site/p2", "p3"):
        for side in ("noisy", "truth"):
            write(tmp_path / patient / side / "1.png", picture(1))
    items = paired_folders(tmp_path, degraded="noisy", clean="truth")
    assert [(item["patient"], item["name"]) for item in items] == [
        ("p3", "p3/1.png"),
        ("site/p1", "site/p1/1.png"),
        ("site/p2", "site/p2/1.png"),
    ]


@pytest.mark.slow
def test_all_problems_are_in_one_error(tmp_path):
    for side in ("LQ", "HQ"):
        write(tmp_path / side / "good.png", picture(0))
        write(tmp_path / side / "size.png", picture(0, (6, 9 + (side == "LQ"), 3)))
        write(tmp_path / side / "gray.png", picture(0, (6, 9)))
        write(tmp_path / side / "cut.png", picture(0, (60, 90, 3)))
        write(tmp_path / side / "twice.png", picture(0))
        ct_series(tmp_path / side / "gap", slices=5, size=8, series="g", skip=(2,) if side == "LQ" else ())
        ct_series(tmp_path / side / "moved", slices=3, size=8, series="m", origin=(0, 0, 50 + (side == "LQ")))
    write(tmp_path / "LQ" / "alone.png", picture(0))
    write(tmp_path / "HQ" / "lonely.tif", picture(0))
    write(tmp_path / "HQ" / "twice.tif", picture(0))
    cut = (tmp_path / "HQ" / "cut.png").read_bytes()
    (tmp_path / "HQ" / "cut.png").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(ValueError, match="cannot be used, it has 12 problems:\n") as caught:
        paired_folders(tmp_path, channels=3)
    lines = str(caught.value).splitlines()[1:]
    for name, reason in [
        ("LQ/alone.png", "has no partner in"),
        ("HQ/lonely.tif", "has no partner in"),
        ("HQ/twice.tif", "has the name of"),
        ("HQ/cut.png", "cut short"),
        ("LQ/gap", "1 slice"),
        ("LQ/gray.png", "has 1 channels, where 3 are expected"),
        ("HQ/gray.png", "has 1 channels, where 3 are expected"),
        ("LQ/size.png", "has 10x6 pixels (columns x rows), where its partner has 9x6"),
        ("LQ/moved", "lies elsewhere than its partner: slice 0 by 1.00 mm"),
    ]:
        assert any(name in line and reason in line for line in lines), (name, lines)


def test_twenty_problems_are_listed_and_all_are_counted(tmp_path):
    write(tmp_path / "LQ" / "x.png", picture(0))
    write(tmp_path / "HQ" / "x.png", picture(0))
    for number in range(25):
        write(tmp_path / "HQ" / f"{number:02d}.png", picture(0))
    with pytest.raises(ValueError, match=r"25 problems:(.|\n)*19\.png(.|\n)*and 5 more\.$") as caught:
        paired_folders(tmp_path)
    assert "20.png" not in str(caught.value)


def test_a_bad_pixel_in_the_middle_is_found_by_the_full_check(tmp_path):
    for side in ("LQ", "HQ"):
        write(tmp_path / side / "a.nii.gz", np.random.default_rng(0).normal(size=(20, 20)))
    path = tmp_path / "LQ" / "a.nii.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert len(paired_folders(tmp_path)) == 1
    with pytest.raises(ValueError, match=r"1 problem:\n.*a\.nii\.gz cannot be read"):
        paired_folders(tmp_path, full_check=True)


def test_a_folder_without_pairs_is_an_error(tmp_path):
    write(tmp_path / "a.png", picture(0))
    with pytest.raises(ValueError, match="has no folders LQ and HQ side by side"):
        paired_folders(tmp_path)
    with pytest.raises(ValueError, match="there is no folder"):
        paired_folders(tmp_path / "missing")
    write(tmp_path / "p1" / "HQ" / "a.png", picture(0))
    with pytest.raises(ValueError, match="p1 has no folder LQ"):
        paired_folders(tmp_path)
    (tmp_path / "p1" / "LQ").mkdir()
    with pytest.raises(ValueError, match="LQ holds no image"):
        paired_folders(tmp_path)


@pytest.fixture
def gopro_copy(tmp_path):
    scenes = {"train": ["GOPR0372_07_00", "GOPR0372_07_01", "GOPR0374_11_00"], "test": ["GOPR0384_11_00"]}
    for part, names in scenes.items():
        for scene in names:
            for kind in ("blur", "blur_gamma", "sharp"):
                for number in (47, 48):
                    write(tmp_path / "GOPRO" / part / scene / kind / f"{number:06d}.png", picture(number))
    return tmp_path / "GOPRO"


def test_gopro(gopro_copy):
    items = {part: gopro(gopro_copy, part) for part in ("train", "validation", "test", "all")}
    assert [len(found) for found in items.values()] == [4, 2, 2, 8]
    assert {item["patient"] for item in items["test"]} == {"GOPR0384_11_00"}
    for item in items["all"]:
        assert item["image"].replace("/blur/", "/sharp/") == item["label"]
    assert len(gopro(gopro_copy, "train", split=PatientSplit(validation=0))) == 6
    assert all("/blur_gamma/" in item["image"] for item in gopro(gopro_copy, "test", "blur_gamma"))
    (gopro_copy / "test" / "GOPR0384_11_00" / "blur" / "000048.png").unlink()
    with pytest.raises(ValueError, match=r"1 problem:\n.*sharp/000048\.png has no partner in .*/blur"):
        gopro(gopro_copy, "test")


@pytest.fixture
def realblur_copy(tmp_path):
    root, place = tmp_path / "RealBlur", "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"
    for part, scenes in (("train", ("scene001", "scene002")), ("test", ("scene050",))):
        lines = []
        for scene in scenes:
            for number in (1, 2):
                paths = [f"{place}/{scene}/{kind}/{kind}_{number}.png" for kind in ("gt", "blur")]
                for seed, path in enumerate(paths):
                    write(root / path, picture(10 * number + seed))
                lines.append(" ".join(paths))
        (root / f"RealBlur_J_{part}_list.txt").write_text("\n".join(lines) + "\n")
    return root


def test_realblur(realblur_copy):
    items = {part: realblur(realblur_copy, part) for part in ("train", "validation", "test", "all")}
    assert [len(found) for found in items.values()] == [2, 2, 2, 6]
    assert {item["patient"] for item in items["test"]} == {"scene050"}
    loaded = LOAD(items["test"][1])
    np.testing.assert_array_equal(loaded["label"].numpy(), picture(20).T)
    np.testing.assert_array_equal(loaded["image"].numpy(), picture(21).T)
    with pytest.raises(ValueError, match="no list file RealBlur_R_train_list"):
        realblur(realblur_copy, "train", subset="R")
    next(realblur_copy.rglob("scene050/blur/blur_2.png")).unlink()
    with (realblur_copy / "RealBlur_J_test_list.txt").open("a") as file:
        file.write("lonely.png\n")
    with pytest.raises(ValueError, match=r"2 problems:\n.*line 3: expected 'clean blurred'.*\n.*blur_2\.png"):
        realblur(realblur_copy, "test")


AAPM = {
    "patient first": ("{patient}/full_3mm", "{patient}/quarter_3mm"),
    "dose first": ("full_3mm/{patient}", "quarter_3mm/{patient}"),
    "as unpacked": ("3mm B30/full_3mm/{patient}/full_3mm", "3mm B30/quarter_3mm/{patient}/quarter_3mm"),
    "sharp": ("{patient}/full_3mm_sharp", "{patient}/quarter_3mm_sharp"),
    "archives": ("FD_1mm/full_1mm/{patient}/full_1mm", "QD_1mm/quarter_1mm/{patient}/quarter_1mm"),
    "TCIA": (
        "LDCT-and-Projection-data/{patient}/12-23-2021-NA-NA-6/1.000000-Full dose images-63992",
        "LDCT-and-Projection-data/{patient}/12-23-2021-NA-NA-6/1.000000-Low dose images-39882",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("places", AAPM.values(), ids=AAPM)
def test_low_dose_ct_in_all_its_layouts(tmp_path, places):
    volume = ct_volume(3, 8)
    for number, patient in enumerate(("L067", "L096", "L109")):
        for shift, place in zip((0, 5), places, strict=True):
            values = volume + 10 * number + shift
            ct_series(tmp_path / place.format(patient=patient), volume=values, series=f"{patient}{shift}")
    split = PatientSplit(validation=1, test=1)
    items = {part: low_dose_ct(tmp_path, part, split=split) for part in ("train", "validation", "test", "all")}
    assert [len(found) for found in items.values()] == [3, 3, 3, 9]
    assert {item["patient"] for item in items["all"]} == {"L067", "L096", "L109"}
    for item in items["all"]:
        loaded = LoadImageOrSeriesd(["image", "label"], modality="CT")(item)
        np.testing.assert_array_equal((loaded["image"] - loaded["label"]).numpy(), 5)
    chosen = low_dose_ct(tmp_path, "all", pattern="*L096*")
    assert {item["patient"] for item in chosen} == {"L096"}


@pytest.mark.slow
def test_low_dose_ct_without_partner_or_at_another_place(tmp_path):
    for place, knobs in {
        "L067/full_3mm": {},
        "L067/quarter_3mm": {"origin": (0, 0, 0)},
        "L096/full_3mm": {},
        "L109/quarter_3mm": {},
        "L143/full_3mm": {},
        "L143/quarter_3mm": {"slices": 4},
    }.items():
        ct_series(tmp_path / place, **{"slices": 3, "size": 8, **knobs})
    with pytest.raises(ValueError, match="4 problems") as caught:
        low_dose_ct(tmp_path, "all")
    for text in (
        "L096/full_3mm has no low-dose partner",
        "L109/quarter_3mm has no full-dose partner",
        "L067/quarter_3mm lies elsewhere",
        "L143/quarter_3mm has 4 slices, where its partner has 3",
    ):
        assert text in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no folders full_"):
        low_dose_ct(tmp_path / "empty", "all")


def test_a_bundle_names_a_layout(gopro_copy):
    config = {
        "split": {"_target_": "medrestore_monai.data.PatientSplit", "validation": 1, "seed": 2},
        "data": {
            "_target_": "medrestore_monai.data.gopro",
            "folder": str(gopro_copy),
            "part": "train",
            "split": "@split",
        },
        "dataset": {
            "_target_": "CacheDataset",
            "data": "@data",
            "transform": {"_target_": "medrestore_monai.data.LoadImageOrSeriesd", "keys": ["image", "label"]},
            "progress": False,
        },
    }
    parser = ConfigParser(config)
    dataset = parser.get_parsed_content("dataset")
    assert isinstance(dataset, CacheDataset)
    assert len(dataset) == 4
    assert dataset[0]["image"].shape == dataset[0]["label"].shape == (3, 9, 6)

    for path in gopro_copy.rglob("train/*/blur/000047.png"):
        path.write_bytes(b"")
    with pytest.raises(RuntimeError) as caught:
        ConfigParser(config).get_parsed_content("dataset")
    assert "2 problems" in str(root_cause(caught.value))


def test_check_items_looks_at_lists_of_any_origin(tmp_path):
    write(tmp_path / "a.png", picture(0))
    write(tmp_path / "b.png", picture(0, (5, 9, 3)))
    np.save(tmp_path / "v.npy", np.zeros((4, 4, 2)))
    a, b, v = (str(tmp_path / name) for name in ("a.png", "b.png", "v.npy"))
    check_items([{"image": a, "label": a}, {"label": v, "slice": 1}])
    with pytest.raises(ValueError, match="3 problems") as caught:
        check_items([{"image": a, "label": b}, {"label": v, "slice": 2}, {"label": a + "x"}], place="my list")
    for text in ("my list cannot", "a.png has 9x6 pixels", "v.npy has 2 slices, but slice 2 is listed", "a.pngx"):
        assert text in str(caught.value)


def test_real_low_dose_pairs(shared_data):
    folder = shared_data / "ct_lowdose_pairs"
    with pytest.raises(ValueError, match=r"4 problems.*\n(.*slice\(s\) missing.*\n?){4}"):
        low_dose_ct(folder, "all")
    items = low_dose_ct(folder, "all", pattern="*D45*", allow_gaps=True)
    assert {item["patient"] for item in items} == {"L143", "L192"}
    assert len(items) == 8
    loaded = LoadImageOrSeriesd(["image", "label"], modality="CT", allow_gaps=True)(items[0])
    assert 5 < float((loaded["image"] - loaded["label"]).std()) < 100  # HU of noise, not another slice
