"""Notes go to the collector of their thread, once each, else they are warnings."""

import threading

import pytest

from medrestore_monai.notes import Notes, note


def test_without_a_collector_a_note_is_a_warning_of_the_caller():
    with pytest.warns(UserWarning, match="^look at it$") as caught:
        note("look at it", stacklevel=1)
    assert caught[0].filename == __file__


def test_collectors_may_be_nested_and_end_with_their_block(recwarn):
    shown = []
    with Notes(shown.append) as outer:
        note("a")
        with Notes() as inner:
            note("b")
            note("b")
        note("c")
    assert (outer.messages, inner.messages, shown) == (["a", "b", "c"], ["b"], ["a", "b", "c"])
    assert len(recwarn) == 0
    with pytest.warns(UserWarning, match="d"):
        note("d")


def test_a_collector_may_keep_its_notes_to_itself():
    with Notes() as outer:
        with Notes(alone=True) as inner:
            note("a")
        note("b")
    assert (outer.messages, inner.messages) == (["b"], ["a"])


def test_each_thread_has_its_own():
    found, both = {}, threading.Barrier(2)

    def work(name):
        with Notes() as notes:
            both.wait()
            note(name)
            both.wait()
        found[name] = notes.messages

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a": ["a"], "b": ["b"]}
