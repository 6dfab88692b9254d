"""Only regular files are opened."""

import os

import pytest

from medrestore_monai.files import UsageError, refuse_links, walk
from medrestore_monai.notes import Notes


def test_pipes_and_devices_are_passed_over_with_a_note(tmp_path):
    (tmp_path / "a").write_text("a")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero.nii").symlink_to("/dev/zero")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with Notes() as notes:
        ((_, _, names),) = walk(tmp_path)
    assert sorted(names) == ["a", "nowhere"]
    assert [message.split("/")[-1][:30] for message in notes.messages] == [
        "pipe passed over: it is a pipe",
        "zero.nii passed over: it is a ",
    ]


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_an_output_that_holds_the_source_by_a_link_is_refused(tmp_path, link):
    for folder in ("source", "out"):
        (tmp_path / folder).mkdir()
    (tmp_path / "source" / "a").write_text("a")
    (tmp_path / "out" / "b").write_text("b")
    refuse_links(tmp_path / "source", [tmp_path / "out"])
    if link is os.link:
        os.link(tmp_path / "source" / "a", tmp_path / "out" / "a")
    else:
        os.rename(tmp_path / "source" / "a", tmp_path / "out" / "a")
        os.symlink(tmp_path / "out" / "a", tmp_path / "source" / "a")
    with pytest.raises(UsageError, match=r"holds the source's a, by a link"):
        refuse_links(tmp_path / "source", [tmp_path / "out"])
