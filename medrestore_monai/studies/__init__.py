"""Restore many studies: list them, restore them here or on Dask, and keep a manifest to resume from.

``listing`` lists what lies in a source, ``job`` says what is to be done, ``task`` does it for one study, ``run`` for
all, ``cluster`` on the workers of Dask. ``lock`` lets one client work on an output, ``ledger`` keeps what was done.
"""

from medrestore_monai.studies.job import (
    Job,
    Workers,
    are_many,
    check_places,
    make_job,
    settings_of,
    state_of,
    states_of,
)
from medrestore_monai.studies.ledger import SCHEMA, Ledger
from medrestore_monai.studies.listing import Study, list_studies
from medrestore_monai.studies.run import Progress, restore_studies
from medrestore_monai.studies.task import records_of

__all__ = [
    "Job",
    "Ledger",
    "Progress",
    "SCHEMA",
    "Study",
    "Workers",
    "are_many",
    "check_places",
    "list_studies",
    "make_job",
    "records_of",
    "restore_studies",
    "settings_of",
    "state_of",
    "states_of",
]
