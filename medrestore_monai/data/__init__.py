"""Which images there are, how one is read, and where a result is written.

``find`` knows what lies in a folder. ``clean`` lists clean images, to be degraded on the fly, ``pairs`` lists pairs;
``parts`` knows who belongs to which part, ``adaptation`` divides the images of one site, ``checks`` knows what is
wrong. ``loading`` reads one image of a list, ``outputs``
writes one result; ``hounsfield`` refuses files whose numbers cannot be CT.

The lists are for MONAI's data sets: one item a slice, checked before any work, with the path of the clean image
(``label``) and, where pairs exist, of the degraded one (``image``), with ``slice``, ``patient`` and ``name``;
:class:`LoadImageOrSeriesd` reads them. Every function takes a ``part`` (``train``, ``validation``, ``test`` or ``all``)
and keeps the images of one patient on one side; all that is wrong with a data set is in one error.

Configurations name what stands here, such as ``medrestore_monai.data.LoadImageOrSeriesd``.
"""

from medrestore_monai.data.adaptation import ADAPTATION_PARTS, Division, adaptation_part, divide, shortened
from medrestore_monai.data.checks import check_items
from medrestore_monai.data.clean import ixi, medmnist, spread_slices, training_slices, training_volumes
from medrestore_monai.data.find import (
    IMAGE_SUFFIXES,
    Item,
    find_images,
    is_archive,
    is_image_file,
    is_picture,
    walk_folders,
)
from medrestore_monai.data.loading import LoadImageOrSeriesd, with_padding, without_offset
from medrestore_monai.data.needs import check_needs, slices_in
from medrestore_monai.data.outputs import SaveLikeSourced, check_folder, plan_outputs
from medrestore_monai.data.pairs import gopro, low_dose_ct, paired_folders, realblur
from medrestore_monai.data.parts import PatientSplit, read_split, split_by_patient

__all__ = [
    "ADAPTATION_PARTS",
    "Division",
    "IMAGE_SUFFIXES",
    "Item",
    "LoadImageOrSeriesd",
    "PatientSplit",
    "SaveLikeSourced",
    "adaptation_part",
    "check_folder",
    "check_items",
    "check_needs",
    "divide",
    "find_images",
    "gopro",
    "is_archive",
    "is_image_file",
    "is_picture",
    "ixi",
    "low_dose_ct",
    "medmnist",
    "paired_folders",
    "plan_outputs",
    "read_split",
    "realblur",
    "split_by_patient",
    "shortened",
    "slices_in",
    "spread_slices",
    "training_slices",
    "training_volumes",
    "walk_folders",
    "with_padding",
    "without_offset",
]
