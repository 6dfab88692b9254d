"""DICOM series in and out: find them, check them, read them, write a derived series on the same grid."""

from medrestore_monai.dicom.checks import XRAY, DicomError, gray_range, stores_air
from medrestore_monai.dicom.derivation import Derivation
from medrestore_monai.dicom.divided import divided_series
from medrestore_monai.dicom.files import SeriesInfo, SourceFile, find_series
from medrestore_monai.dicom.read import Series, choose_stack, read_series, read_stacks
from medrestore_monai.dicom.reader import DicomSeriesReader
from medrestore_monai.dicom.stacks import StackName
from medrestore_monai.dicom.suv import SUVError, SUVOptions, suv_factor
from medrestore_monai.dicom.write import check_output, check_replaceable, write_derived_series

__all__ = [
    "Derivation",
    "DicomError",
    "DicomSeriesReader",
    "SUVError",
    "SUVOptions",
    "XRAY",
    "Series",
    "SeriesInfo",
    "SourceFile",
    "StackName",
    "check_output",
    "check_replaceable",
    "choose_stack",
    "divided_series",
    "find_series",
    "gray_range",
    "read_series",
    "read_stacks",
    "stores_air",
    "suv_factor",
    "write_derived_series",
]
