"""Files are whole or not there, and walks end."""

import os

import pytest

from medrestore_monai.files import atomic_file, walk


@pytest.mark.parametrize("single_writer", [False, True])
def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path, single_writer):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_file(path, single_writer) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("single_writer", [False, True])
def test_a_file_that_fails_leaves_the_old_one_alone(tmp_path, single_writer):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), atomic_file(path, single_writer) as file:
        file.writelines([b"half", None])
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_two_writers_do_not_share_a_part_and_one_writer_overwrites_its_own(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_file(path) as first, atomic_file(path) as second:
        assert first.name != second.name
    (tmp_path / ".a.bin.part").write_bytes(b"of a killed process")
    with atomic_file(path, single_writer=True) as file:
        file.write(b"new")
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_walk_follows_links_and_ends(tmp_path):
    for name in ("a/b", "elsewhere/c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "more").symlink_to(tmp_path / "elsewhere")
    found = [place.relative_to(tmp_path).as_posix() for place, _, _ in walk(tmp_path / "a")]
    assert found == ["a", "a/b", "a/more", "a/more/c"]
