"""Many sprites into one .npz, a batch at a time: memory stays flat, and a walk that was stopped can go on."""

import json
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from sprites_lab.checkpoints import remove, replacing
from sprites_lab.errors import LabError

HEADER = 4096  # bytes at the start of an unfinished file that say what it will be
CHUNK = 1 << 20


class SpriteStream:
    """An unfinished file FILE.npz.partial: what was asked for, then the bytes of all finished sprites in their order.

    `asked` (texts and numbers) says what is drawn; only the same is continued. Batches are written whole: a part of one, left
    by a crash, is drawn again. With `resume`, goes on where the unfinished file ends, or begins if there is none.
    """

    def __init__(self, out: Path, shape: tuple[int, int, int], count: int, batch: int, asked: dict[str, Any], resume: bool):
        self.out, self.shape, self.count, self.batch = out, shape, count, batch
        self.partial, self.size = out.with_name(out.name + ".partial"), int(np.prod(shape))
        text = json.dumps(asked | {"count": count, "shape": shape}, sort_keys=True)
        self.header = text.encode().ljust(HEADER)
        if len(self.header) > HEADER:
            raise LabError("the options are too long to be kept beside the sprites; use shorter paths")
        self.done = self.found(resume)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            if not self.done:
                self.partial.write_bytes(self.header)
            os.truncate(self.partial, HEADER + self.done * self.size)
        except OSError as error:
            raise LabError(f"cannot write {self.partial}: {error.strerror or error}; choose another place with --out, or make room") from error

    def found(self, resume: bool) -> int:
        """How many sprites of an unfinished file count; LabError where going on, or beginning anew, would harm it."""
        if not self.partial.exists():
            return 0
        with open(self.partial, "rb") as file:
            header = file.read(HEADER)
        finished = min(self.count, max(0, self.partial.stat().st_size - HEADER) // self.size)
        finished -= finished % self.batch if finished < self.count else 0
        if not resume and finished:
            raise LabError(f"{self.partial} holds {finished:,} sprites of a walk that was stopped: go on with --resume, or delete it to begin anew")
        if resume and finished and header != self.header:
            raise LabError(f"{self.partial} was begun with other options: {header.decode(errors='replace').strip()}. Repeat those with --resume, or delete it")
        return finished if header == self.header else 0

    def add(self, sprites: np.ndarray) -> None:
        """Append the next sprites, uint8 (N, *shape), and see them on the disk."""
        try:
            with open(self.partial, "ab") as file:
                file.write(np.ascontiguousarray(sprites).tobytes())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise LabError(f"cannot write {self.partial}: {error.strerror or error}; make room and go on with --resume") from error
        self.done += len(sprites)

    def finish(self, context: np.ndarray) -> None:
        """Make FILE.npz of it, with the arrays sprites (count, *shape) and contexts (count, K), and delete the unfinished file."""
        with replacing(self.out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, open(self.partial, "rb") as raw:
            raw.seek(HEADER)
            with array_in(archive, "sprites", (self.count, *self.shape), np.dtype(np.uint8)) as member:
                while chunk := raw.read(CHUNK):
                    member.write(chunk)
            row = np.ascontiguousarray(context)
            with array_in(archive, "contexts", (self.count, len(row)), row.dtype) as member:
                for first in range(0, self.count, CHUNK):
                    member.write(row.tobytes() * min(CHUNK, self.count - first))
        remove(self.partial)


def array_in(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype) -> IO[bytes]:
    """An array of the archive, opened for its values; dated 1980, so that equal sprites make equal files."""
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.compress_type = zipfile.ZIP_DEFLATED
    member = archive.open(entry, "w", force_zip64=True)
    np.lib.format.write_array_header_1_0(member, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    return member
