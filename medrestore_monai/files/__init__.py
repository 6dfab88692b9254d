"""Files and folders: written whole or not at all, checked before, and walked through to an end.

What is written lies in a hidden folder beside its place, the workspace of that output, and is renamed at the end.
``atomic`` writes, ``workspace`` claims an output and clears up after a run that was killed, ``scratch`` does the same
for temporary folders, ``checks`` refuses before any work, ``walks`` finds the regular files of a folder, ``source``
knows what a result takes from the files it is made of.
"""

from medrestore_monai.files.atomic import atomic_file, atomic_folder, atomic_result
from medrestore_monai.files.checks import DataError, UsageError, refuse_links, require_space, require_writable
from medrestore_monai.files.lock import lock_file
from medrestore_monai.files.scratch import ScratchFolder, clear_scratch
from medrestore_monai.files.source import file_mode, folder_mode, refuse_change, state_of
from medrestore_monai.files.system_errors import naming
from medrestore_monai.files.unpacking import unpack_limit
from medrestore_monai.files.walks import is_regular, walk
from medrestore_monai.files.workspace import Workspace, claim, recover

__all__ = [
    "DataError",
    "ScratchFolder",
    "UsageError",
    "Workspace",
    "atomic_file",
    "atomic_folder",
    "atomic_result",
    "claim",
    "clear_scratch",
    "file_mode",
    "folder_mode",
    "is_regular",
    "lock_file",
    "naming",
    "recover",
    "refuse_change",
    "refuse_links",
    "require_space",
    "require_writable",
    "state_of",
    "unpack_limit",
    "walk",
]
