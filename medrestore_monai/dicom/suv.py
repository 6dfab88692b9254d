"""Standardized uptake values (SUV) by body weight, from the header of a PET series.

``SUV = activity concentration * body weight / injected activity``, both activities at one time: that to which the
scanner has corrected the decay. Dates and times follow the vendor-neutral recipe of QIBA.

References:
    DICOM PS3.3 C.8.9.1 (PET Series), C.8.9.2 (PET Isotope) and C.8.9.4 (PET Image).
    QIBA, SUV vendor-neutral pseudo-code (2012), https://qibawiki.rsna.org/index.php/Standardized_Uptake_Value_(SUV)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from pydicom.dataset import Dataset

from medrestore_monai.dicom.checks import DicomError

__all__ = ["SUVError", "SUVOptions", "suv_factor"]

_PHILIPS, _PHILIPS_SUV, _PHILIPS_BQML = "Philips PET Private Group", 0x00, 0x09  # (7053,xx00) and (7053,xx09)
_GE, _GE_SCAN_TIME = "GEMS_PETD_01", 0x0D  # (0009,xx0D)
#: Private elements that the SUV may depend on, so that a derived series must keep them: group, creator, element.
PRIVATE = (
    (0x7053, _PHILIPS, _PHILIPS_SUV),
    (0x7053, _PHILIPS, _PHILIPS_BQML),
    (0x0009, _GE, _GE_SCAN_TIME),
)
_LEAST_DOSE = 1e4  # Bq; smaller values are in MBq or mCi
_MOST_WEIGHT = 500.0  # kg
_MOST_HALF_LIVES = 8.0  # a day too many is 13 of fluorine-18
_LONG_HALF_LIFE = 12 * 3600.0  # s; the scan may be days after the injection
_SAME_CLOCK = 60.0  # s
_ASK = {
    "weight": ("Patient's Weight (0010,1030)", "`patient_weight` in kg"),
    "dose": ("Radionuclide Total Dose (0018,1074)", "`injected_dose` in Bq"),
    "half_life": ("Radionuclide Half Life (0018,1075)", "`half_life` in seconds"),
    "injection_time": (
        "Radiopharmaceutical Start DateTime or Time (0018,1078; 0018,1072)",
        "`injection_time` as HHMMSS",
    ),
}


class SUVError(DicomError):
    """The SUV cannot be worked out; the message says what is missing, and which field gives it."""


@dataclass(frozen=True)
class SUVOptions:
    """What is known of an injection beside the header, or instead of it; ``None`` leaves it to the header.

    Args:
        factor: SUV per unit of the image; with it, nothing else is looked at.
        weight: of the body in kg.
        dose: injected activity in Bq, at the time of injection.
        half_life: of the radionuclide in s.
        injection_time: on the scanner's clock, ``HHMMSS``, or ``YYYYMMDDHHMMSS`` with its date.

    Raises:
        ValueError: for values that cannot be.
    """

    factor: float | None = None
    weight: float | None = None
    dose: float | None = None
    half_life: float | None = None
    injection_time: str | None = None

    def __post_init__(self) -> None:
        for name in ("factor", "weight", "dose", "half_life"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"the SUV option {name} must be above 0, got {value}.")
        if self.weight is not None and self.weight > _MOST_WEIGHT:
            raise ValueError(f"the body weight is in kg, got {self.weight:g}.")
        if self.dose is not None and self.dose < _LEAST_DOSE:
            raise ValueError(f"the injected dose is in Bq, such as 370e6, got {self.dose:g}.")
        if self.injection_time is not None and not re.fullmatch(r"(\d{8})?\d{6}", self.injection_time):
            raise ValueError(f"the injection time is HHMMSS or YYYYMMDDHHMMSS, got {self.injection_time!r}.")
        if self.injection_time is not None:
            _moment(("20000101" + self.injection_time)[-14:])

    @classmethod
    def of(cls, options: Mapping[str, Any] | SUVOptions | None) -> SUVOptions:
        """The options that a configuration names.

        Raises:
            ValueError: one of them is unknown, or cannot be.
        """
        if isinstance(options, SUVOptions):
            return options
        unknown = set(options or {}) - {field.name for field in fields(cls)}
        if unknown:
            known = ", ".join(field.name for field in fields(cls))
            raise ValueError(f"there is no SUV option {', '.join(sorted(unknown))}; there are {known}.")
        return cls(**(options or {}))


def suv_factor(
    datasets: Sequence[Dataset],
    options: SUVOptions | None = None,
    label: str = "the series",
    series: Sequence[Dataset] = (),
) -> float:
    """SUV by body weight per unit of the rescaled values of a PET series.

    Args:
        datasets: headers of all slices.
        options: what is known instead of, or beside, the headers.
        label: names the series in messages.
        series: headers of all frames, where the slices are one frame of a dynamic series: its decay is corrected to
            one moment, the start of the first.

    Returns:
        The factor, in g/Bq for a series in Bq/ml; multiply the rescaled values by it.

    Raises:
        SUVError: the headers lack something, or contradict each other, and no option gives it.
    """
    options = options or SUVOptions()
    if options.factor is not None:
        return float(options.factor)
    given = options != SUVOptions()
    first = datasets[0]
    units = str(first.get("Units", ""))
    if units == "GML":
        if given:
            raise SUVError(f"{label} is in SUV already, which weight, dose and times do not change: leave them out.")
        kind = str(first.get("SUVType", "") or "BW")
        if kind != "BW":
            raise SUVError(f"{label} has another SUV Type (0054,1006), where SUV by body weight (BW) is expected.")
        return 1.0
    if units not in ("BQML", "CNTS"):
        raise SUVError(f"{label} has other PET units (0054,1001): give its SUV per unit, `suv_factor`.")
    scale = 1.0
    if units == "CNTS":
        to_suv, to_bqml = (_philips(datasets, element) for element in (_PHILIPS_SUV, _PHILIPS_BQML))
        if to_suv is not None and not given:
            return to_suv
        if to_bqml is None and to_suv is not None:
            raise SUVError(
                f"{label} has Philips' SUV per count (7053,1000) alone, which weight, dose and times do not change: "
                "leave them out, or give `suv_factor`."
            )
        if to_bqml is None:
            raise SUVError(
                f"{label} is in counts, and its header has neither of Philips' scale factors (7053,1000) and "
                "(7053,1009): give its SUV per count, `suv_factor`."
            )
        scale = to_bqml
    return scale * _by_body_weight(datasets, options, label, series or datasets)


def _by_body_weight(datasets: Sequence[Dataset], options: SUVOptions, label: str, series: Sequence[Dataset]) -> float:
    """SUV per Bq/ml."""
    first = datasets[0]
    correction = str(first.get("DecayCorrection", ""))
    if correction not in ("START", "ADMIN", "NONE"):
        raise SUVError(
            f"{label} does not say to which time its decay is corrected, Decay Correction (0054,1102): "
            "give its SUV per Bq/ml, `suv_factor`."
        )
    if "ATTN" not in first.get("CorrectedImage", ["ATTN"]):
        raise SUVError(f"{label} is not corrected for attenuation: it has no SUV.")
    known = _known(first, options)
    needed = ["weight", "dose"] if correction == "ADMIN" else list(_ASK)
    missing = [name for name in needed if known[name] is None]
    if missing:
        what, give = (", ".join(_ASK[name][place] for name in missing) for place in (0, 1))
        raise SUVError(f"{label} has no usable {what} for the SUV: give {give}, or `suv_factor`.")
    left = 1.0
    if correction != "ADMIN":
        half_life = known["half_life"]
        scan = _start(series, half_life) if correction == "START" else _only_frame(datasets, half_life)
        if scan is None:
            raise SUVError(f"{label} has no usable time of the scan for the SUV: give `suv_factor`.")
        waited = (scan - _injection(first, known["injection_time"], scan, half_life)).total_seconds()
        if not 0 <= waited <= _MOST_HALF_LIVES * half_life:
            when = "after the scan" if waited < 0 else f"more than {_MOST_HALF_LIVES:.0f} half lives before the scan"
            raise SUVError(
                f"{label} says the injection was {when}, which cannot be: compare its Radiopharmaceutical Start Time "
                "(0018,1072) or DateTime (0018,1078) with its Half Life (0018,1075), and give `injection_time`, or "
                "`suv_factor`."
            )
        left = 0.5 ** (waited / half_life)
    return float(1000 * known["weight"] / (known["dose"] * left))


def _known(ds: Dataset, options: SUVOptions) -> dict[str, Any]:
    """The values of options and header, ``None`` where they are missing or cannot be."""
    isotopes = ds.get("RadiopharmaceuticalInformationSequence") or []
    isotope = isotopes[0] if len(isotopes) == 1 else Dataset()
    weight = options.weight or _positive(ds.get("PatientWeight"))
    dose = options.dose or _positive(isotope.get("RadionuclideTotalDose"))
    time = options.injection_time
    if time is None and str(ds.get("DecayCorrection", "")) != "ADMIN":  # there it is not needed, right or wrong
        time = _injection_of(ds, isotope)
    return {
        "weight": weight if weight is None or weight <= _MOST_WEIGHT else None,
        "dose": dose if dose is None or dose >= _LEAST_DOSE else None,
        "half_life": options.half_life or _positive(isotope.get("RadionuclideHalfLife")),
        "injection_time": time,
    }


def _injection_of(ds: Dataset, isotope: Dataset) -> str | None:
    """Date and time of the injection, or only the time, on the scanner's clock.

    Raises:
        SUVError: the two that a header may have contradict each other, or the zone of one is not that of the scanner.
    """
    names = ("RadiopharmaceuticalStartDateTime", "RadiopharmaceuticalStartTime")
    whole, time = (str(isotope.get(name, None) or "").strip() for name in names)
    if not whole:
        return time or None
    if re.search(r"[+-]\d{4}$", whole) and not ds.get("TimezoneOffsetFromUTC"):
        if time:
            return time
        raise SUVError(
            "the injection's time names a time zone, but the header does not say that of the scanner, Timezone Offset "
            "From UTC (0008,0201): give `injection_time` on the scanner's clock."
        )
    if time:
        moment = _moment(whole, str(ds.get("TimezoneOffsetFromUTC", "")))
        apart = abs((_moment(moment.strftime("%Y%m%d") + time) - moment).total_seconds())
        if min(apart, 24 * 3600 - apart) > _SAME_CLOCK:
            raise SUVError(
                "the header has two times of injection, Radiopharmaceutical Start DateTime (0018,1078) and Time "
                "(0018,1072), which differ: give `injection_time`."
            )
    return whole


def _injection(ds: Dataset, text: str, scan: datetime, half_life: float) -> datetime:
    """The moment of injection; a time without a date is of the scan's day, or of the day before across midnight."""
    clock, _, _ = text.partition(".")
    if len(re.sub(r"[+-]\d{4}$", "", clock)) >= 12:
        return _moment(text, str(ds.get("TimezoneOffsetFromUTC", "")))
    if half_life > _LONG_HALF_LIFE:
        raise SUVError(
            f"the time of injection has no date, which a half life of {half_life / 3600:.0f} h needs: "
            "give `injection_time` as YYYYMMDDHHMMSS."
        )
    same_day = _moment(scan.strftime("%Y%m%d") + text)
    # a time soon after the scan is no injection of the day before
    return same_day - timedelta(days=1) if same_day - scan > timedelta(hours=12) else same_day


def _start(datasets: Sequence[Dataset], half_life: float) -> datetime | None:
    """When the scan of the whole series began, to which ``START`` corrects the decay; an enhanced image says it."""
    stated = str(datasets[0].get("DecayCorrectionDateTime") or "")
    if stated:
        return _moment(stated, str(datasets[0].get("TimezoneOffsetFromUTC", "")))
    series = _date_time(datasets[0], "Series")
    acquired = [moment for ds in datasets if (moment := _date_time(ds, "Acquisition")) is not None]
    if series is not None and (not acquired or series <= min(acquired)):
        return series
    # the Series Date and Time are those of a later processing
    block = _private(datasets[0], 0x0009, _GE, _GE_SCAN_TIME)
    if block:
        return _moment(str(block))
    counted = [moment for ds in datasets if (moment := _start_by_frame(ds, half_life)) is not None]
    return min(counted or acquired, default=None)


def _start_by_frame(ds: Dataset, half_life: float) -> datetime | None:
    """When the scan began, from the Frame Reference Time, the moment of the frame's mean count rate after it."""
    acquired, reference = _date_time(ds, "Acquisition"), _positive(ds.get("FrameReferenceTime"))
    duration = _positive(ds.get("ActualFrameDuration"))
    if acquired is None or reference is None or duration is None:
        return None
    return acquired - timedelta(milliseconds=reference) + timedelta(seconds=_mean_time(duration / 1000, half_life))


def _only_frame(datasets: Sequence[Dataset], half_life: float) -> datetime | None:
    """The moment for which the values hold where decay was not corrected; the same for all slices, or ``None``."""
    acquired = {_date_time(ds, "Acquisition") for ds in datasets}
    moment = acquired.pop()
    if acquired or moment is None:
        return None
    duration = _positive(datasets[0].get("ActualFrameDuration")) or 0.0
    return moment + timedelta(seconds=_mean_time(duration / 1000, half_life))


def _mean_time(duration: float, half_life: float) -> float:
    """Seconds after the start of a frame at which the activity is the frame's mean."""
    decay = math.log(2) / half_life
    part = decay * duration
    return math.log(part / -math.expm1(-part)) / decay if part > 0 else 0.0


def _date_time(ds: Dataset, what: str) -> datetime | None:
    """``SeriesDate`` and ``SeriesTime``, or the same of the acquisition."""
    date, time = (str(ds.get(f"{what}{part}", "") or "") for part in ("Date", "Time"))
    return _moment(date.replace(".", "") + time) if date and time else None


def _moment(text: str, zone: str = "") -> datetime:
    """Read DICOM's ``YYYYMMDDHHMM[SS[.ffffff]][+ZZZZ]``, on the clock of ``zone`` if both name a zone.

    Raises:
        SUVError: it is no date and time.
    """
    found = re.fullmatch(r"(\d{8}) ?(\d{2}):?(\d{2}):?(\d{2})?(?:\.(\d{1,6})\d*)?([+-]\d{4})? *", text)
    if found is None:
        raise SUVError("a date or time of the injection or scan cannot be read: give `injection_time` or `suv_factor`.")
    date, hour, minute, second, fraction, offset = found.groups()
    digits = f"{date}{hour}{minute}{min(int(second or 0), 59):02d}{(fraction or '0'):0<6}"
    try:
        moment = datetime.strptime(digits, "%Y%m%d%H%M%S%f")
    except ValueError:
        raise SUVError("a date or time of the injection or scan cannot be: give `injection_time`.") from None
    if offset and re.fullmatch(r"[+-]\d{4}", zone):
        moment += timedelta(minutes=_minutes(zone) - _minutes(offset))
    return moment


def _minutes(offset: str) -> int:
    return int(offset[0] + "1") * (60 * int(offset[1:3]) + int(offset[3:5]))


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < math.inf else None


def _philips(datasets: Sequence[Dataset], element: int) -> float | None:
    """One of Philips' scale factors, if all slices have it and agree."""
    values = {_positive(_private(ds, 0x7053, _PHILIPS, element)) for ds in datasets}
    return values.pop() if len(values) == 1 else None


def _private(ds: Dataset, group: int, creator: str, element: int) -> Any:
    try:
        value = ds.private_block(group, creator)[element].value
    except KeyError:
        return None
    return value.decode("ascii", "replace").strip("\0 ") if isinstance(value, bytes) else value
