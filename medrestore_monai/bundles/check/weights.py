"""Weight files, by their bytes: the instructions of a pickle are read and never followed."""

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator

LARGEST_PICKLE = 64_000_000  # bytes; the numbers stand outside the pickle
_STORAGE = re.compile(
    r"torch\.(storage\.)?(Untyped|Typed|Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool|ComplexFloat|"
    r"ComplexDouble)Storage"
)
_DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
_REBUILD = {
    "collections.OrderedDict",
    "torch.Size",
    "torch.nn.parameter.Parameter",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._tensor._rebuild_from_type_v2",
    "torch.Tensor",
    *(f"torch.{name}" for name in _DTYPES.split()),
}
# how a pickle names what it calls, other than by GLOBAL; torch.save writes none of them
_FOREIGN = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER"}


def is_weights(content: bytes) -> bool:
    """Return whether a file could be unpickled or run, by its first bytes: an archive, a pickle, NumPy or HDF5."""
    starts = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x93NUMPY", b"\x89HDF", b"\x7fELF", b"MZ")
    return content.startswith(starts) or zipfile.is_zipfile(io.BytesIO(content))


def weight_problems(content: bytes) -> Iterator[str]:
    """Say what is wrong with a weight file.

    Args:
        content: the whole file.

    Yields:
        One reason each; none for a file of ``torch.save`` that holds tensors, texts and numbers only.
    """
    if not content.startswith(b"PK"):
        kind = "a pickle of its own" if content.startswith(b"\x80") else "not a file of torch.save"
        yield f"{kind}; weights are a state dict in the zip form of torch.save, or safetensors"
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield from _archive_problems(archive)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        yield f"a damaged archive: {' '.join(str(error).split())[:100]}"


def _archive_problems(archive: zipfile.ZipFile) -> Iterator[str]:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        yield "an archive with a name twice"
        return
    parts = [name.partition("/")[2] for name in names]
    if "constants.pkl" in parts or any(part.startswith("code/") for part in parts):
        yield "TorchScript: a program, not weights"
        return
    pickles = [entry for entry in entries if entry.filename.lower().endswith(".pkl")]
    if [entry.filename.partition("/")[2] for entry in pickles] != ["data.pkl"]:
        yield "an archive that is not a file of torch.save"
        return
    if len({name.partition("/")[0] for name in names}) > 1:
        yield "an archive of several folders"
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        yield "an archive with compressed parts, which torch.save does not write"
        return
    if pickles[0].file_size > LARGEST_PICKLE:
        yield f"a pickle of {pickles[0].file_size} bytes"
        return
    yield from pickle_problems(archive.read(pickles[0]))


def pickle_problems(content: bytes) -> Iterator[str]:
    """Say which instructions of a pickle ``torch.load(..., weights_only=True)`` would refuse."""
    stream = io.BytesIO(content)
    found = set()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "GLOBAL":
                dotted = str(argument).replace(" ", ".")
                if dotted not in _REBUILD and not _STORAGE.fullmatch(dotted):
                    found.add(f"a pickle that calls {dotted[:100]}")
            elif opcode.name in _FOREIGN:
                found.add(f"a pickle with the instruction {opcode.name}")
    except Exception as error:  # pickletools raises what it likes on damaged bytes
        found.add(f"a damaged pickle: {' '.join(str(error).split())[:100]}")
    if not found and stream.read(1):
        found.add("a pickle with bytes after its end")
    yield from sorted(found)
