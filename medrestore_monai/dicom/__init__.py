"""DICOM series in and out: find them, check them, read them, write a derived series on the same grid."""

from medrestore_monai.dicom.checks import DicomError, stores_air
from medrestore_monai.dicom.derivation import Derivation
from medrestore_monai.dicom.files import SeriesInfo, SourceFile, find_series
from medrestore_monai.dicom.read import DicomSeriesReader, Series, read_series
from medrestore_monai.dicom.suv import SUVError, SUVOptions, suv_factor
from medrestore_monai.dicom.write import check_output, check_replaceable, write_derived_series

__all__ = [
    "Derivation",
    "DicomError",
    "DicomSeriesReader",
    "SUVError",
    "SUVOptions",
    "Series",
    "SeriesInfo",
    "SourceFile",
    "check_output",
    "check_replaceable",
    "find_series",
    "read_series",
    "stores_air",
    "suv_factor",
    "write_derived_series",
]
