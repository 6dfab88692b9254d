"""Files that look like images and are not read, and what to do about each."""

from pathlib import PurePath

__all__ = ["way_out"]

_PICTURE = "save it as PNG or TIFF"
_SLIDE = "export the picture as TIFF, such as with bfconvert"
_ARRAY = "save its array as .npy"
_ARCHIVE = "unpack it"
_WAYS = {
    **dict.fromkeys(
        (".bmp", ".gif", ".webp", ".jp2", ".j2k", ".jxl", ".heic", ".avif", ".tga", ".ppm", ".pgm"), _PICTURE
    ),
    **dict.fromkeys((".svs", ".ndpi", ".mrxs", ".scn", ".czi", ".lif", ".nd2", ".oib", ".oif", ".vsi", ".lsm"), _SLIDE),
    **dict.fromkeys((".h5", ".hdf5", ".mat"), _ARRAY),
    **dict.fromkeys((".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".gz"), _ARCHIVE),
    ".nhdr": "save it with its data in one .nrrd file",
    ".mhd": "save it with its data in one .mha file",
    ".mnc": "convert it to NIfTI with mnc2nii",
    ".par": "convert it to NIfTI with dcm2niix",
    ".rec": "convert it to NIfTI with dcm2niix",
    ".v": "convert it to DICOM or NIfTI with the scanner's software",
    ".hdr": "put its .img beside it",
    ".img": "put its .hdr beside it",
}


def way_out(name: str) -> str:
    """What to do about a file that looks like an image by its name, but is not read; empty for other files."""
    return _WAYS.get(PurePath(name.lower()).suffix, "")
