"""Give the restore command bad inputs, bombs and special files: one sentence each, no output, bounded time and memory.

usage: python scripts/faults/bad_inputs.py WORK [--only NAME,...] [--gigabytes 1] [--seconds 60] [--commands]
Exit code 0: every input ended with exit code 2 or 3 (0 where the rest of it can be restored), one sentence and no
traceback, wrote nothing, left nothing behind, and used at most so many gigabytes more than a good input does.
"""

import argparse
import gzip
import os
import shutil
import socket
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import tifffile
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from running import Command, real_slices, write_nifti, write_series

CT, RGB = "ct_denoise_restore_rwkv", "rgb_deblur_mlff_unet"
Make = Callable[[Path], Path]


def edited(change: Callable[[list[Dataset]], None], cut: Callable[[bytes], bytes] = lambda data: data) -> Make:
    """A series of four slices with a change, and with one in the bytes of its second file."""

    def make(place: Path) -> Path:
        slices = real_slices(4)
        change(slices)
        (place / "series").mkdir()
        for index, ds in enumerate(slices):
            ds.save_as(place / "series" / f"{index}.dcm")
        file = place / "series" / "1.dcm"
        file.write_bytes(cut(file.read_bytes()))
        return place / "series"

    return make


def each(**values: object) -> Callable[[list[Dataset]], None]:
    def change(slices: list[Dataset]) -> None:
        for ds in slices:
            for name, value in values.items():
                setattr(ds, name, value)

    return change


def second(**values: object) -> Callable[[list[Dataset]], None]:
    return lambda slices: each(**values)(slices[1:2])


def missing(*names: str) -> Callable[[list[Dataset]], None]:
    def change(slices: list[Dataset]) -> None:
        for name in names:
            delattr(slices[1], name)

    return change


def nested(data: bytes) -> bytes:
    """Put 2000 sequences, each in the one before, in front of the data set."""
    start = 144 + struct.unpack_from("<I", data, 140)[0]
    return data[:start] + b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 2000 + data[start:]


def packed_as(syntax: str, data: bytes) -> Callable[[list[Dataset]], None]:
    def change(slices: list[Dataset]) -> None:
        for ds in slices:
            ds.Rows = ds.Columns = 32
            ds.file_meta.TransferSyntaxUID = syntax
            ds.PixelData = encapsulate([data])
            ds["PixelData"].is_undefined_length = True

    return change


def run_length(count: int) -> bytes:
    """Two segments, the first of which unpacks to 128 bytes for each two of ``count`` bytes."""
    return struct.pack("<16I", 2, 64, 64 + count, *[0] * 13) + b"\x81\0" * (count // 2) + b"\x81\0" * 8


def deflated(slices: list[Dataset]) -> None:
    slices[1].file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def nifti(name: str = "a.nii", change: Callable[[bytearray], object] = lambda data: data, **options: object) -> Make:
    """A NIfTI file, whose unpacked bytes are changed; ``fill`` is the value of all voxels."""

    def make(place: Path) -> Path:
        path = place / "plain.nii"
        if options:
            volume = np.full(options.get("shape", (24, 20, 4)), options["fill"], options.get("dtype", "float32"))
            if options.get("ramp"):
                volume = np.linspace(0, options["fill"], volume.size, dtype=volume.dtype).reshape(volume.shape)
            if options.get("point") is not None:
                volume[3, 3] = options["point"]
            nib.save(nib.Nifti1Image(volume, np.eye(4)), path)
        else:
            write_nifti(path, (24, 20, 4))
        data = bytearray(path.read_bytes())
        path.unlink()
        data = bytes(change(data) or data)
        (place / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return place / name

    return make


def put(start: int, form: str, *values: float) -> Callable[[bytearray], None]:
    return lambda data: struct.pack_into(form, data, start, *values)


def raw(name: str, data: bytes) -> Make:
    def make(place: Path) -> Path:
        (place / name).write_bytes(data)
        return place / name

    return make


def cut(make: Make, keep: float = 0.5, behind: bytes = b"") -> Make:
    def shorter(place: Path) -> Path:
        path = make(place)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)] + behind)
        return path

    return shorter


def gzip_bomb(declared: bool) -> Make:
    """A packed NIfTI of 4.4 GB: by its header, or behind what its header declares."""

    def make(place: Path) -> Path:
        header = nib.Nifti1Header()
        header.set_data_shape((1024, 1024, 2100) if declared else (24, 20, 4))
        header.set_data_dtype(np.int16)
        header["vox_offset"] = 352
        zeros = gzip.compress(bytes(16 << 20))
        path = place / "bomb.nii.gz"
        path.write_bytes(gzip.compress(header.binaryblock + bytes(4)) + zeros * 263)
        return path

    return make


def png(width: int, height: int, rows: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes((width + 1) * rows))) + chunk(b"IEND", b"")


def tiff(place: Path) -> Path:
    tifffile.imwrite(place / "a.tif", np.zeros((64, 64), np.uint8) + np.arange(64, dtype=np.uint8))
    return place / "a.tif"


def npy(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


def zip_of(name: str, members: dict[str, bytes], declared: int = 0) -> Make:
    def make(place: Path) -> Path:
        with zipfile.ZipFile(place / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in members.items():
                archive.writestr(member, data)
        if declared:  # in the directory at the end
            data = bytearray((place / name).read_bytes())
            struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, declared)
            (place / name).write_bytes(data)
        return place / name

    return make


def npz_bomb(place: Path) -> Path:
    with (
        zipfile.ZipFile(place / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("image.npy", "w", force_zip64=True) as member,
    ):
        member.write(npy((1 << 10, 1 << 10, 1 << 11)))
        for _ in range(32):
            member.write(bytes(1 << 20))
    return place / "a.npz"


def fifo(name: str) -> Make:
    def make(place: Path) -> Path:
        os.mkfifo(place / name)
        return place / name

    return make


def link(name: str, target: str) -> Make:
    def make(place: Path) -> Path:
        (place / name).symlink_to(target)
        return place / name

    return make


def listening(place: Path) -> Path:
    here = os.getcwd()
    os.chdir(place)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.nii")
    os.chdir(here)
    return place / "s.nii"


def beside_series(make: Make) -> Make:
    """A series with a special file in its folder, which can be restored."""

    def both(place: Path) -> Path:
        write_series(place / "series", 4)
        make(place / "series")
        return place / "series"

    return both


J2K = b"\xff\x4f\xff\x51\0\x2f" + struct.pack(">HIIIIIIIIH", 0, 65535, 65535, 0, 0, 65535, 65535, 0, 0, 1) + b"\x0f\1\1"
CASES: dict[str, tuple[Make, str]] = {
    "dicom_empty": (raw("a.dcm", b""), CT),
    "dicom_random": (raw("a.dcm", np.random.default_rng(0).bytes(4000)), CT),
    "dicom_cut_in_header": (edited(each(), lambda data: data[:900]), CT),
    "dicom_cut_in_pixels": (edited(each(), lambda data: data[:-2000]), CT),
    "dicom_more_behind": (edited(each(), lambda data: data + b"\1" * 999), CT),
    "dicom_size_of_65535": (edited(each(Rows=65535, Columns=65535)), CT),
    "dicom_other_rows": (edited(second(Rows=24)), CT),
    "dicom_no_position": (edited(missing("ImagePositionPatient")), CT),
    "dicom_no_slope": (edited(missing("RescaleSlope")), CT),
    "dicom_no_pixels": (edited(missing("PixelData")), CT),
    "dicom_slope_0": (edited(each(RescaleSlope=0)), CT),
    "dicom_slope_nan": (edited(each(RescaleSlope="NaN")), CT),
    "dicom_gap": (edited(lambda slices: slices.pop(2)), CT),
    "dicom_same_position": (edited(second(ImagePositionPatient=[-100, -100, 0])), CT),
    "dicom_color": (edited(each(SamplesPerPixel=3, PhotometricInterpretation="RGB")), CT),
    "dicom_localizer": (edited(each(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])), CT),
    "dicom_other_kind": (edited(each(SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1", Modality="US")), CT),
    "dicom_too_few_bits": (edited(each(BitsStored=4, HighBit=3)), CT),
    "dicom_nested": (edited(each(), nested), CT),
    "dicom_deflated": (edited(deflated), CT),
    "dicom_run_length_bomb": (edited(packed_as(RLELossless, run_length(90 << 20))), CT),
    "dicom_run_length_small_bomb": (edited(packed_as(RLELossless, run_length(1 << 20))), CT),
    "dicom_jpeg_2000_bomb": (edited(packed_as(JPEG2000Lossless, J2K)), CT),
    "nifti_empty": (raw("a.nii", b""), CT),
    "nifti_random": (raw("a.nii", np.random.default_rng(0).bytes(4000)), CT),
    "nifti_cut": (cut(nifti()), CT),
    "nifti_more_behind": (cut(nifti(), 1, b"12"), CT),
    "nifti_size_of_32767": (nifti(change=put(42, "<3h", 32767, 32767, 32767)), CT),
    "nifti_negative_size": (nifti(change=put(42, "<3h", -3, 20, 4)), CT),
    "nifti_slope_inf": (nifti(change=put(112, "<f", np.inf)), CT),
    "nifti_slope_1e38": (nifti(change=put(112, "<f", 1e38)), CT),
    "nifti_affine_nan": (nifti(change=put(280, "<f", np.nan)), CT),
    "nifti_inf": (nifti(fill=-50.0, point=np.inf), CT),
    "nifti_nan": (nifti(fill=np.nan), CT),
    "nifti_series": (nifti(fill=-50.0, shape=(24, 20, 4, 3)), CT),
    "nifti_scaled": (nifti(fill=1.0, ramp=True), CT),
    "nifti_gray": (nifti(fill=4000.0, ramp=True), CT),
    "gzip_cut": (cut(nifti("a.nii.gz")), CT),
    "gzip_check_sum": (cut(nifti("a.nii.gz"), 0.999, b"\0\0\0\0"), CT),
    "gzip_bomb": (gzip_bomb(True), CT),
    "gzip_bomb_behind": (gzip_bomb(False), CT),
    "png_cut": (cut(raw("a.png", png(64, 64, 64))), RGB),
    "png_rows_missing": (raw("a.png", png(20000, 20000, 8)), RGB),
    "tiff_cut": (cut(tiff), RGB),
    "npy_size": (raw("a.npy", npy((1 << 12, 1 << 12, 1 << 10))), CT),
    "npy_objects": (raw("a.npy", npy((2, 2), "|O") + b"cos\nsystem\n"), CT),
    "npz_bomb": (npz_bomb, CT),
    "zip_empty": (zip_of("a.zip", {}), CT),
    "zip_damaged": (cut(zip_of("a.zip", {"a.dcm": bytes(9999)})), CT),
    "zip_bomb": (zip_of("a.zip", {f"{n}.dcm": bytes(1 << 20) for n in range(4)}, declared=4_000_000_000), CT),
    "zip_of_other_things": (zip_of("a.zip", {"../../notes.txt": b"notes"}), CT),
    "pipe": (fifo("a.nii"), CT),
    "pipe_without_ending": (fifo("pipe"), CT),
    "socket": (listening, CT),
    "device": (link("a.nii", "/dev/zero"), CT),
    "device_dicom": (link("a.dcm", "/dev/zero"), CT),
    "device_zip": (link("a.zip", "/dev/zero"), CT),
    "link_to_nowhere": (link("a.nii", "nowhere"), CT),
    "series_with_pipe": (beside_series(fifo("pipe.dcm")), CT),
    "series_with_device": (beside_series(link("zero.dcm", "/dev/zero")), CT),
}
GOOD = ("series_with_pipe", "series_with_device")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--commands", action="store_true")
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    names = given.only.split(",") if given.only else list(CASES)
    usual = run(given, "good", write_series(given.work / "good", 4), CT).peak
    bad = 0
    for name in names:
        place = given.work / name
        place.mkdir()
        make, bundle = CASES[name]
        source = make(place)
        before = listing(place)
        ended = run(given, name, source, bundle)
        faults = look(given, name, place, before, ended, usual)
        bad += bool(faults)
        lines = [line for line in ended.text.splitlines() if line.startswith("Error:")]
        more = (ended.peak - usual) / 1e9
        print(
            f"{name}: exit {ended.code}, {ended.seconds:.1f} s, {more:+.2f} GB; {(lines or ['-'])[0][:150]}", flush=True
        )
        for fault in faults:
            print(f"    FAULT {fault}", flush=True)
    print(f"{len(names)} inputs, {bad} with faults")
    return int(bad > 0)


def run(given: argparse.Namespace, name: str, source: Path, bundle: str):
    args = ["restore", source, "-o", given.work / "out" / name / "result", "--bundle", bundle, "--device", "cpu"]
    args += ["--strength", "0"]
    return Command(args, given.work / "log.txt", given.work / "temporary", not given.commands).wait(given.seconds)


def look(given: argparse.Namespace, name: str, place: Path, before: list, ended, usual: int) -> list[str]:
    faults = []
    good = name in GOOD
    if ended.code not in ((0,) if good else (2, 3)):
        faults.append(f"exit code {ended.code}: {ended.text[-600:]}")
    if "Traceback" in ended.text:
        faults.append("a traceback")
    if not good and sum(line.startswith("Error:") for line in ended.text.splitlines()) != 1:
        faults.append("not one sentence")
    if not good and (given.work / "out" / name).exists():
        faults.append(f"an output: {sorted((given.work / 'out' / name).rglob('*'))[:3]}")
    if any((given.work / "temporary").glob("medrestore*")):
        faults.append("a temporary file is left")
        shutil.rmtree(given.work / "temporary")
    if listing(place) != before:
        faults.append("the source has changed")
    if ended.peak - usual > given.gigabytes * 1e9:
        faults.append(f"{(ended.peak - usual) / 1e9:.1f} GB more than usual")
    return faults


def listing(place: Path) -> list:
    return sorted((str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in place.rglob("*"))


if __name__ == "__main__":
    sys.exit(main())
