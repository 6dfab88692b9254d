"""Restore many studies: list them, claim one after the other, keep a manifest, and go on past what cannot be restored.

``listing`` tells what lies in a source, ``job`` what is to be done, ``claims`` who works on what, ``ledger`` what was
done, ``run`` does it.
Processes share nothing but the output folder: those of one ``torchrun`` as well as separate runs, here or elsewhere.
"""

from medrestore_monai.studies.claims import Claims
from medrestore_monai.studies.job import (
    Job,
    are_many,
    check_places,
    device_of_process,
    make_job,
    settings_of,
    shard,
    state_of,
)
from medrestore_monai.studies.ledger import Ledger
from medrestore_monai.studies.listing import Study, list_studies
from medrestore_monai.studies.run import Progress, restore_studies

__all__ = [
    "Claims",
    "Job",
    "Ledger",
    "Progress",
    "Study",
    "are_many",
    "check_places",
    "device_of_process",
    "list_studies",
    "make_job",
    "restore_studies",
    "settings_of",
    "shard",
    "state_of",
]
