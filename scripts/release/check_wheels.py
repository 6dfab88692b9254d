"""Check what wheels hold, without installing them; prints one line a wheel, exit code 1 if one fails.

    python scripts/release/check_wheels.py dist/*.whl

Every file of the package and of its bundles must be there as it is in the checkout, nothing else may be, and the kernel
must be a library for the system that the wheel's name says.
"""

import argparse
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "medrestore_monai/ops/biwkv/_biwkv"
# what a bundle must have, whatever git knows
OF_BUNDLES = ("LICENSE", "configs/inference.json", "configs/metadata.json", "docs/README.md", "docs/data_license.txt")
OF_BUNDLES += ("configs/train.json", "configs/evaluate.json", "models/model.pt")
OF_PACKAGE = ("label_app/main.py", "demo/ct_abdomen_crlm.zip", "demo/README.md", "audit/page.html.j2", "py.typed")
LARGEST = 100 * 10**6  # bytes that the package index takes
# suffix and first bytes of a library, and where the processor is named, by the end of the wheel's tag
SYSTEMS = {
    "manylinux.*_x86_64": (".so", b"\x7fELF", 18, b"\x3e\x00"),
    "manylinux.*_aarch64": (".so", b"\x7fELF", 18, b"\xb7\x00"),
    "macosx.*_arm64": (".so", b"\xcf\xfa\xed\xfe", 4, b"\x0c\x00\x00\x01"),
    "win_amd64": (".pyd", b"MZ", None, b"PE\x00\x00\x64\x86"),
}


def expected_files() -> dict[str, Path]:
    """Return what git tracks of the package and its bundles, by the name in a wheel."""
    command = ["git", "ls-files", "-z", "medrestore_monai", "bundles"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return {re.sub("^bundles/", "medrestore_monai/bundled/", name): ROOT / name for name in listed if name}


def wrong_files(held: Mapping[str, bytes], expected: Mapping[str, bytes]) -> list[str]:
    """Say which files are missing, differ, or do not belong into a wheel."""
    bundles = sorted({name.split("/")[2] for name in expected if name.startswith("medrestore_monai/bundled/")})
    needed = {f"medrestore_monai/bundled/{bundle}/{name}" for bundle in bundles for name in OF_BUNDLES}
    needed |= {f"medrestore_monai/{name}" for name in OF_PACKAGE} | set(expected)
    wrong = [f"{name} is missing" for name in sorted(needed - set(held))]
    wrong += [f"{name} differs from the checkout" for name in sorted(set(held) & set(expected))
              if held[name] != expected[name]]  # fmt: skip
    more = [name for name in held if name not in expected and ".dist-info/" not in name and not name.startswith(KERNEL)]
    return wrong + [f"{name} does not belong into it" for name in sorted(more)]


def wrong_kernel(held: Mapping[str, bytes], platform: str) -> list[str]:
    """Say what is wrong with the kernel of a wheel for a platform."""
    kernels = [name for name in held if name.startswith(KERNEL)]
    known = next((value for key, value in SYSTEMS.items() if re.fullmatch(key, platform)), None)
    if known is None:
        return [f"there are no wheels for {platform}"]
    suffix, magic, place, processor = known
    if kernels != [KERNEL + suffix]:
        return [f"the kernel is {', '.join(kernels) or 'missing'}, where {KERNEL + suffix} is expected"]
    content = held[kernels[0]]
    place = int.from_bytes(content[60:64], "little") if place is None else place
    right = content.startswith(magic) and content[place : place + len(processor)] == processor
    return [] if right else [f"the kernel is no library for {platform}"]


def wrong_tags(name: str, held: Mapping[str, bytes]) -> list[str]:
    """Say where name and description of a wheel are not those of one that fits any Python 3."""
    described = next((text.decode() for path, text in held.items() if path.endswith(".dist-info/WHEEL")), "")
    tags = set(re.findall(r"^Tag: (.*)$", described, flags=re.MULTILINE))
    named = {f"py3-none-{platform}" for platform in name.removesuffix(".whl").split("-")[-1].split(".")}
    wrong = [] if tags == named and "-py3-none-" in name else [f"its tags are {', '.join(sorted(tags))}"]
    return wrong + ([] if "Root-Is-Purelib: false" in described else ["it says that it fits any system"])


def problems(wheel: Path, expected: Mapping[str, bytes]) -> list[str]:
    """Say what is wrong with a wheel; empty for a good one."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    wrong = wrong_tags(wheel.name, held) + wrong_files(held, expected)
    wrong += wrong_kernel(held, wheel.stem.split("-")[-1].split(".")[-1])
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in held):
        wrong.append("its license is missing")
    size = wheel.stat().st_size
    return wrong + ([f"it has {size / 1e6:.0f} MB, more than {LARGEST / 1e6:.0f}"] if size > LARGEST else [])


def report(wheels: Iterable[Path]) -> bool:
    """Print a line a wheel, and whether all are good."""
    expected = {name: path.read_bytes() for name, path in expected_files().items()}
    good = True
    for wheel in wheels:
        wrong = problems(wheel, expected)
        good &= not wrong
        print(f"{wheel.name}: {'; '.join(wrong) or f'good, {len(expected)} files and a kernel'}")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, nargs="+")
    sys.exit(not report(parser.parse_args().wheels))


if __name__ == "__main__":
    main()
