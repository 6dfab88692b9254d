"""The examples in the docstrings run, and give what they show."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["medrestore_monai", "medrestore_monai.restorer"])
def test_examples(name):
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert (failed, tried > 0) == (0, True)
