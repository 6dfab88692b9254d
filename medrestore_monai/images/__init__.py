"""One reader and writer for NIfTI, PNG, TIFF and NumPy that keeps depth, affine and units.

Arrays lie in memory as MONAI has them: ``(X, Y)``, ``(X, Y, Z)`` or, for RGB, ``(C, X, Y)``, where X counts the columns
of a picture and Y its rows. What is read and written back unchanged is the same, voxel by voxel.

``files`` holds the reader and the writer; ``nifti``, ``pictures`` and ``arrays`` know one group of formats each.
"""

from medrestore_monai.images.files import ImageFileReader, read_image, write_image

__all__ = ["ImageFileReader", "read_image", "write_image"]
