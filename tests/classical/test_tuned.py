"""Tables of parameters by noise level, and the file that bundles ship."""

import json
import math

import pytest

from medrestore_monai.classical import Parameters, constant, read_tuned


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def content(baselines, levels=(0.01, 0.04), modality="PT", **more):
    return {"version": 1, "modalities": {modality: {"noise_levels": list(levels), "baselines": baselines, **more}}}


def test_between_two_levels_logarithms_are_linear():
    table = Parameters((0.01, 0.04, 0.4), {"sigma": (1.0, 4.0, 4.0), "spread": (0.02, 0.02, 0.02)})
    assert table.at(0.01) == pytest.approx({"sigma": 1.0, "spread": 0.02})
    # 0.02 is halfway from 0.01 to 0.04 in the logarithm, and 2 from 1 to 4
    assert table.at(0.02) == pytest.approx({"sigma": 2.0, "spread": 0.02})
    third = 0.01 * math.exp(math.log(4) / 3)
    assert table.at(third)["sigma"] == pytest.approx(4 ** (1 / 3))
    assert table.at(0.1) == pytest.approx({"sigma": 4.0, "spread": 0.02})


def test_beyond_the_table_its_ends_hold():
    table = Parameters((0.01, 0.04), {"h": (0.1, 0.3)})
    assert table.at(1e-6) == pytest.approx({"h": 0.1})
    assert table.at(0.9) == pytest.approx({"h": 0.3})
    assert table.depends_on_level
    assert not constant({"h": 0.1}).depends_on_level
    assert constant({"h": 0.1}).at(0.5) == {"h": 0.1}
    assert constant({"h": 0.1}).described() == {"h": 0.1}
    assert table.described() == {"noise levels": [0.01, 0.04], "h": [0.1, 0.3]}


def test_a_file_is_read_with_numbers_for_all_levels_and_lists(tmp_path):
    baselines = {"gaussian_3d": {"sigma_mm": [2, 5]}, "bilateral": {"sigma": 1.5, "spread": [0.02, 0.05]}}
    more = {"tuned on": {"slices": 3}, "psnr": {"input": [30, 20]}}
    tuned = read_tuned(write(tmp_path / "tuned.json", content(baselines, **more)))["PT"]
    assert tuned["gaussian_3d"].at(0.02)["sigma_mm"] == pytest.approx(math.sqrt(10))
    assert tuned["bilateral"].at(0.04) == pytest.approx({"sigma": 1.5, "spread": 0.05})
    without = {"version": 1, "modalities": {"MR": {"baselines": {"apodization": {"taper": 0.5}}}}}
    tuned = read_tuned(write(tmp_path / "tuned.json", without))["MR"]  # the fraction is known, not tuned
    assert tuned["apodization"].at(0.3) == {"taper": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ([], "no attribute 'get'"),
        ({"baselines": {"gaussian": {"sigma": 1.0}}}, "version 1 is expected, got None"),
        ({"version": 1}, "'modalities' is missing"),
        ({"version": 1, "modalities": {"CT": {}}}, "'baselines' is missing"),
        (content({"gauss": {"sigma": 1.0}}), "a classical baseline is one of gaussian"),
        (content({"gaussian": {"sigma_mm": 1.0}}), "gaussian takes sigma, got sigma_mm"),
        (content({"gaussian": {"sigma": [1.0]}}), "sigma has 1 values for 2 noise levels"),
        (content({"gaussian": {"sigma": [1.0, -1.0]}}), "sigma must be numbers above 0"),
        (content({"gaussian": {"sigma": "wide"}}), "sigma must be numbers above 0"),
        (content({"gaussian": {"sigma": 1.0}}, [0.04, 0.01]), "noise levels must ascend"),
        (content({"gaussian": {"sigma": 1.0}}, [0.0, 0.01]), "noise levels must be numbers above 0"),
        (content({"gaussian": {"sigma": 1.0}}, []), "noise levels must be numbers above 0"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = write(tmp_path / "tuned.json", text)
    with pytest.raises(ValueError, match=r"tuned\.json is no file of tuned baselines: .*" + message):
        read_tuned(path)
