"""One reader and writer for NIfTI, PNG, JPEG, TIFF and NumPy that keeps depth, affine and units.

Arrays lie in memory as MONAI has them: ``(X, Y)``, ``(X, Y, Z)`` or, for RGB, ``(C, X, Y)``, where X counts the columns
of a picture and Y its rows. What is read and written back unchanged is the same, voxel by voxel, with two exceptions.
float64 is rounded to float32, though written as float64 again. JPEG is lossy: it comes in 8 bit, gray or RGB, is turned
upright as its EXIF orientation says, and is written with quality 95 and full color resolution. PNG and TIFF keep their
pixels as stored, and their orientation beside them. Which texts of a source a result gets, ``descriptions`` says.

``files`` holds the reader and the writer, ``headers`` says what a file holds without its pixels; ``nifti``,
``pictures``, ``jpeg`` and ``arrays`` know one group of formats each.
"""

from medrestore_monai.images.arrays import list_arrays, read_picture_set
from medrestore_monai.images.files import KINDS, ImageFileReader, kind_of, read_image, write_image
from medrestore_monai.images.headers import ImageHeader, read_header
from medrestore_monai.images.slab_file import SlabFile
from medrestore_monai.images.slice_axis import SLICE_DIM, SLICE_ORDER, choose_slice_axis, slice_order
from medrestore_monai.images.volumes import VolumeFile, write_volume

__all__ = [
    "KINDS",
    "SLICE_DIM",
    "SLICE_ORDER",
    "ImageFileReader",
    "ImageHeader",
    "SlabFile",
    "VolumeFile",
    "choose_slice_axis",
    "kind_of",
    "list_arrays",
    "read_header",
    "read_image",
    "read_picture_set",
    "slice_order",
    "write_image",
    "write_volume",
]
