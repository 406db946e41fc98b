"""The first look at a file that someone brought: what is it, how large is it, before anything is believed or allocated.

Whatever is wrong with a file ends in a LabError that names it. Every file is read once: what is checked is what is loaded.
"""

import ast
import io
import re
import zipfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sprites_lab.errors import LabError

MAX_BYTES, MAX_HEADER, MAX_MEMBERS = 1 << 30, 10_000, 10_000
SMALL, RATIO = 16 << 20, 100  # a packed array may fill so many bytes, or so many times those that it takes in the file
DTYPE = re.compile(r"[<>|=]?([?]|[biufUS]\d{1,5})")
NATURES = (
    (b"PK\x03\x04", "a zip archive (such as .npz or .pth)"), (b"PK\x05\x06", "an empty zip archive"), (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"\x89PNG", "a PNG picture"), (b"\xff\xd8\xff", "a JPEG picture"), (b"GIF8", "a GIF picture"), (b"BM", "a BMP picture"), (b"RIFF", "a WebP picture"),
    (b"\x80\x02", "a dump of Python objects"), (b"\x80\x03", "a dump of Python objects"), (b"\x80\x04", "a dump of Python objects"), (b"\x80\x05", "a dump of Python objects"),
    (b"\x1f\x8b", "a gzip archive"), (b"7z\xbc\xaf", "a 7-zip archive"), (b"Rar!", "a RAR archive"), (b"%PDF", "a PDF document"),
)  # fmt: skip


def nature(data: bytes) -> str:
    """What the first bytes of a file say it is, "" if they say nothing."""
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")):
        return "an HTML page"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    return next((name for magic, name in NATURES if data.startswith(magic)), "")


def read_file(
    path: str | Path, what: str, advice: str, magic: bytes = b"", most: int = MAX_BYTES, look: Callable[[bytes, int], None] | None = None
) -> bytes:
    """The bytes of a regular file of 1 to `most` bytes that begins with `magic` and is not something else under a wrong name.

    `what` it should be ("weights") and `advice`, what to do if it is not there, are for the message. The rest is read only if
    the first 512 bytes are right; `look` is shown these and the size of the file, and may raise a LabError.
    """
    path = Path(path)
    try:
        there, is_file = path.exists(), path.is_file()
    except (OSError, ValueError) as error:
        raise LabError(f"{path} is no possible path: {getattr(error, 'strerror', error)}") from error
    if not there:
        raise LabError(f"there is no {what} {path}; {advice}")
    if not is_file:
        raise LabError(f"{path} is no file; {advice}")
    try:
        with open(path, "rb") as file:
            data, size = file.read(512), path.stat().st_size
            check_start(path, data, size, what, advice, magic, most)
            if look:
                look(data, size)
            data += file.read(most + 1 - len(data))
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > most:
        raise LabError(f"{path} grows while it is read; wait until it is whole, or copy it")
    return data


def check_start(path: Path, data: bytes, size: int, what: str, advice: str, magic: bytes, most: int) -> None:
    """LabError unless the size and the first bytes of a file are those of what it should be."""
    if not data or size > most:
        raise LabError(f"{path} has {size:,} bytes; a {what} has more than 0 and at most {most:,}. Copy or download it again")
    if (found := nature(data)) and not (magic and data.startswith(magic)):
        cure = {"an HTML page": "download the raw file", "a Git LFS pointer": "run `git lfs pull`"}.get(found, advice)
        raise LabError(f"{path} is {found}, not a {what}; {cure}")
    if not data.startswith(magic):
        raise LabError(f"{path} is no {what}, whatever its name says; {advice}")


def open_zip(path: Path, data: bytes, packed: bool) -> zipfile.ZipFile:
    """A zip archive whose list of contents is sane: no name twice, nothing encrypted, no more bytes than the file can mean.

    Without `packed`, all contents must lie in it as they are.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        members = archive.infolist()
    except Exception as error:
        raise LabError(f"{path} is damaged: its list of contents cannot be read. Copy or download it again") from error
    names = [member.filename for member in members]
    allowed = {zipfile.ZIP_STORED} | ({zipfile.ZIP_DEFLATED} if packed else set())
    if len(members) > MAX_MEMBERS or len(set(names)) != len(names):
        raise LabError(f"{path} holds {len(members):,} parts, some perhaps under one name: it was not written by a program that we know")
    if any(member.compress_type not in allowed or member.flag_bits & 1 for member in members):
        raise LabError(f"{path} is packed or encrypted in an unusual way; save it again with the program that made it")
    room = max(SMALL, RATIO * len(data)) if packed else len(data)
    if sum(member.file_size for member in members) > room or any(member.file_size > max(SMALL, RATIO * member.compress_size) for member in members):
        raise LabError(f"{path} would unpack to {sum(member.file_size for member in members):,} bytes from {len(data):,}: refused as a zip bomb, or damaged. Copy or download it again, or save it unpacked")
    return archive


def npz_arrays(path: Path, data: bytes, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of these names that are in a .npz file; each is unpacked only once its header agrees with its size."""
    found = {}
    with open_zip(path, data, packed=True) as archive:
        sizes = {member.filename: member.file_size for member in archive.infolist()}
        for name in names:
            if (entry := f"{name}.npy") in sizes:
                try:
                    with archive.open(entry) as member:
                        start = member.read(12 + MAX_HEADER)
                        header = npy_header(path, start, sizes[entry], name)
                        found[name] = npy_array(path, start + member.read(), name, header)
                except LabError:
                    raise
                except Exception as error:  # a wrong checksum, a broken stream
                    raise LabError(f"{path} is damaged: its array {name} cannot be unpacked. Copy or download it again") from error
    return found


class Header(NamedTuple):
    """What a .npy file says of its array, and where the values begin."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran_order: bool
    begin: int


def npy_header(path: Path, data: bytes, size: int, name: str = "") -> Header:
    """The header in the first bytes of a .npy file of `size` bytes: plain numbers or texts, exactly as many as there are."""
    where = f"{path}: the array {name}" if name else f"{path}"
    if data[:6] != b"\x93NUMPY" or len(data) < 12 or data[6] not in (1, 2, 3):
        raise LabError(f"{where} is no NumPy array, or is damaged; copy or download it again, or save it again with numpy.save")
    width = 2 if data[6] == 1 else 4
    length = int.from_bytes(data[8 : 8 + width], "little")
    begin = 8 + width + length
    if length > MAX_HEADER or begin > len(data):
        raise LabError(f"{where} is damaged, or no plain array: its header would have {length:,} bytes. Save it again with numpy.save")
    try:
        said: Any = ast.literal_eval(data[8 + width : begin].decode("latin1").strip())
        descr, shape, fortran_order = (said[key] for key in ("descr", "shape", "fortran_order"))
        sane = len(said) == 3 and isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 1 << 40 for n in shape) and type(fortran_order) is bool
        dtype = np.dtype(descr) if sane and isinstance(descr, str) and DTYPE.fullmatch(descr) else None
    except Exception as error:  # the parser has many ways to fail
        raise LabError(f"{where} is damaged: its header cannot be read. Copy or download it again") from error
    if dtype is None or len(shape) > 8:
        raise LabError(f"{where} holds no plain numbers (perhaps Python objects, which may run code): save it again with numpy.save(..., allow_pickle=False)")
    if begin + prod(shape) * dtype.itemsize != size:
        raise LabError(f"{where} is cut off or has grown: {dtype} {shape} would fill {begin + prod(shape) * dtype.itemsize:,} bytes, there are {size:,}")
    return Header(dtype, shape, fortran_order, begin)


def npy_array(path: Path, data: bytes, name: str = "", header: Header | None = None) -> np.ndarray:
    """The array of a .npy file, in this machine's byte order; our own reading of the header, so that no pickle is ever looked at."""
    header = header or npy_header(path, data, len(data), name)
    flat = np.frombuffer(data, header.dtype, prod(header.shape), header.begin)
    shaped = flat.reshape(header.shape, order="F" if header.fortran_order else "C")
    return np.ascontiguousarray(shaped.astype(header.dtype.newbyteorder("="))).reshape(header.shape)
