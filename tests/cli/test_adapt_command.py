"""What ``medrestore adapt`` refuses before any work, in one sentence and with the code of a usage error."""

import pytest
from typer.testing import CliRunner

from medrestore_monai.cli import app


def run(*arguments):
    return CliRunner().invoke(app, ["adapt", *map(str, arguments)])


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--minutes", "3", "--steps", "5"], "give --minutes or --steps, not both"),
        (["--minutes", "0"], "minutes must be above 0"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--targets", "some"], "targets must be one of clean, pairs, none"),
        (["--targets", "none", "--from", "mri_superresolution_restore_rwkv"], "k-space that was not measured"),
        (["--targets", "none", "--from", "rgb_deblur_mlff_unet"], "lost frequencies, which shifts and rotations"),
        (["--targets", "none", "--from", "all_in_one_restore_rwkv", "--modality", "CT"], "no adapt_none.json"),
        (["--targets", "pairs", "--from", "all_in_one_restore_rwkv", "--modality", "CT"], "no adapt_pairs.json"),
        (["--from", "all_in_one_restore_rwkv"], "name the --modality"),
        (["--modality", "PT"], "restores CT, not PT"),
        (["--from", "nothing"], "no bundle 'nothing'"),
        (["--from", "pet_synthesis_restore_rwkv", "--hu-offset", "0"], "--hu-offset is for CT"),
    ],
)
def test_a_wish_that_cannot_be_is_refused(data, tmp_path, options, reason):
    result = run(data, "-o", tmp_path / "mine", *options)
    assert result.exit_code == 2
    assert reason in " ".join(result.output.split())
    assert sorted(tmp_path.iterdir()) == [data]


def test_what_is_there_stays(data, tmp_path):
    (tmp_path / "mine").mkdir()
    assert "exists" in run(data, "-o", tmp_path / "mine").output
    result = run(data, "-o", tmp_path / "mine", "--overwrite")
    assert result.exit_code == 2
    assert "none of an earlier adaptation" in " ".join(result.output.split())


def test_an_empty_folder_is_bad_data(data, tmp_path):
    result = run(data, "-o", tmp_path / "mine")
    assert result.exit_code == 3
    assert "holds no image" in " ".join(result.output.split())
    assert sorted(tmp_path.iterdir()) == [data]
