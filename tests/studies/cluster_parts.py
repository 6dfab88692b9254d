"""Restorers that workers open: what they do to one study is what is tested."""

import os
import signal
import time
from functools import partial

from medrestore_monai.restorer import Restorer


def open_restorer(bundle, log=None, deadly="", deaths=9, slow=0.0, **settings):
    """Open a bundle; each study is written to ``log``, is slow, and the one called ``deadly`` kills its process."""
    restorer = Restorer(bundle, device="cpu", **settings)
    restorer.restore_file = partial(_restore_file, restorer, log, deadly, deaths, slow)
    return restorer


def _restore_file(restorer, log, deadly, deaths, slow, path, result, **options):
    if log is not None:
        with open(log, "a") as file:
            file.write(f"{result.name} {os.getpid()}\n")
    if result.name == deadly and log.read_text().count(f"{deadly} ") <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(slow)
    return Restorer.restore_file(restorer, path, result, **options)
