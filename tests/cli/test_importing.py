"""The garbage collector while a command imports."""

import gc

import pytest

from medrestore_monai.cli.imports import importing


@pytest.mark.parametrize("before", [True, False])
def test_the_collector_rests_and_is_then_as_it_was(before):
    enabled = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled() == before
        with pytest.raises(ImportError), importing():
            raise ImportError
        assert gc.isenabled() == before
    finally:
        (gc.enable if enabled else gc.disable)()
