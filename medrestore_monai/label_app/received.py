"""Which paths of the server's machine a client may name for its image: those of what it has sent."""

import os
import re
import stat
import tempfile
from pathlib import Path

# of tempfile.NamedTemporaryFile, which MONAI Label asks for a name; it adds all endings of the client's name
_NAME = r"tmp[a-z0-9_]{8}(\..*)?"


def is_received(image: str, sessions: str | None = None) -> bool:
    """Tell whether a path is a file that a client has just sent, or the image of its session.

    MONAI Label puts a sent file directly into the temporary folder, where other programs keep files and folders, too.

    Args:
        image: what the request names.
        sessions: the folder with the sessions of MONAI Label, if there are any.
    """
    path = Path(image)
    if not os.path.exists(image):
        return False
    if sessions is not None and Path(sessions).resolve() in path.resolve().parents:
        return True
    status = path.lstat()  # of a link itself
    named = path.parent.resolve() == Path(tempfile.gettempdir()).resolve() and re.fullmatch(_NAME, path.name)
    owned = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()  # Windows tells no owner
    return bool(named) and owned and stat.S_ISREG(status.st_mode)
