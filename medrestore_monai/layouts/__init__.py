"""Where the images of a data set lie: lists for MONAI's data sets, one item a slice, checked before any work.

Every function gives items with the path of the clean image (``label``) and, where pairs exist, of the degraded one
(``image``), with ``slice``, ``patient`` and ``name``; :class:`~medrestore_monai.loading.LoadImageOrSeriesd` reads them.
Every function takes a ``part`` (``train``, ``validation``, ``test`` or ``all``) and keeps the images of one patient on
one side; all that is wrong with a data set is in one error.

``clean`` lists clean images, to be degraded on the fly; ``pairs`` lists pairs; ``find`` knows what lies in a folder,
``parts`` who belongs to which part, ``checks`` what is wrong.
"""

from medrestore_monai.layouts.checks import check_items
from medrestore_monai.layouts.clean import ixi, medmnist, training_slices, training_volumes
from medrestore_monai.layouts.find import (
    IMAGE_SUFFIXES,
    Item,
    find_images,
    is_archive,
    is_image_file,
    is_picture,
    walk_folders,
)
from medrestore_monai.layouts.pairs import gopro, low_dose_ct, paired_folders, realblur
from medrestore_monai.layouts.parts import PatientSplit, read_split, split_by_patient

__all__ = [
    "IMAGE_SUFFIXES",
    "Item",
    "PatientSplit",
    "check_items",
    "find_images",
    "gopro",
    "is_archive",
    "is_image_file",
    "is_picture",
    "ixi",
    "low_dose_ct",
    "medmnist",
    "paired_folders",
    "read_split",
    "realblur",
    "split_by_patient",
    "training_slices",
    "training_volumes",
    "walk_folders",
]
