"""The original course's pair of .npy files, pictures and labels: checked, each picture kept once, split without a leak."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sprites_lab import gates
from sprites_lab.data import CLASS_NAMES, SPRITES, SpriteSet, is_class_name
from sprites_lab.errors import LabError
from sprites_lab.splits import split

FOLDER = SPRITES.parent
MAX_CLASSES = 1000
HELD_OUT = 0.1  # of each class


class CourseSprites(NamedTuple):
    """The course's different sprites, split for training, and sentences that say what was found in the files."""

    sprites: SpriteSet
    told: tuple[str, ...]


def course_sprites(
    pictures: str | Path | None = None, labels: str | Path | None = None, folder: str | Path | None = None, class_names: Sequence[str] | None = None
) -> CourseSprites:
    """The course's pair of .npy files: pictures (N, 16, 16, 3), uint8 or floats in [0, 1]; labels (N, K) one-hot or (N,) whole numbers.

    A file that is not given is looked for, by its shape, in `folder` (where the other one lies, or data/). Each different
    picture is kept once; of each class a tenth is held out, mirror images and recoloured sprites always on the side of their
    original. Classes have the course's names if there are five, else "class 1", … or `class_names`. LabError for anything
    else than such a pair.
    """
    first, second = find_pair(pictures, labels, folder)
    check_swapped(first, second)
    sprites, found_labels = read_pictures(first), read_labels(second)
    if len(sprites) != len(found_labels):
        raise LabError(f"{first} holds {len(sprites):,} pictures, {second} {len(found_labels):,} labels: they do not belong together")
    names = names_of(class_names, int(found_labels.max()) + 1 if found_labels.ndim == 1 else found_labels.shape[1])
    numbers = numbered(second, found_labels, len(names))
    kept, place = distinct(sprites)
    unique, kinds = sprites[kept], numbers[kept].astype(np.uint8 if len(names) <= 256 else np.uint16)
    held_out = split(unique, kinds, HELD_OUT)
    apart = f"{int(held_out.sum()):,} are held out, none of them a sprite to train on, its mirror image or the same in other colours"
    told = (*repetition(place, numbers), *differences(place, numbers, kept), apart)
    return CourseSprites(SpriteSet(unique, kinds, kinds, held_out, names, names), told)


def find_pair(pictures: str | Path | None, labels: str | Path | None, folder: str | Path | None) -> tuple[Path, Path]:
    """The two paths, those that are not given found by shape among the .npy files of the folder."""
    if pictures is not None and labels is not None:
        return Path(pictures), Path(labels)
    given = [Path(path) for path in (pictures, labels) if path is not None]
    folder = Path(folder) if folder is not None else given[0].parent if given else FOLDER
    shapes, faults = shapes_in(folder)
    shapes |= {path: header_of(path).shape for path in given}
    as_pictures = given if pictures is not None else [path for path, shape in shapes.items() if is_pictures(shape)]
    as_labels = given if labels is not None else [path for path, shape in shapes.items() if is_labels(shape)]
    pairs = [(one, other) for one in as_pictures for other in as_labels if one != other]
    if len(pairs) > 1:  # the length tells which belong together
        pairs = [(one, other) for one, other in pairs if shapes[one][:1] == shapes[other][:1]]
    if len(pairs) == 1:
        return pairs[0]
    if faults and not pairs:
        raise faults[0]
    found = ", ".join(f"{path.name} {shape}" for path, shape in list(shapes.items())[:5]) or "no .npy file"
    raise LabError(f"{folder} holds no single pair of pictures (N, 16, 16, 3) and labels (N, K) of one length (there is: {found}); put the course's two .npy files there, or give the path of each")


def shapes_in(folder: Path) -> tuple[dict[Path, tuple[int, ...]], list[LabError]]:
    """The shape of every .npy file of a folder, from its header alone, and what is wrong with those that have none."""
    shapes, faults = {}, []
    try:
        paths = sorted(path for path in folder.glob("*.npy") if path.is_file())
    except OSError as error:
        raise LabError(f"cannot look into {folder}: {error.strerror or error}") from error
    for path in paths:
        try:
            shapes[path] = header_of(path).shape
        except LabError as error:
            faults.append(error)
    return shapes, faults


def header_of(path: Path) -> gates.Header:
    """The header of a .npy file, without reading the rest."""
    try:
        with open(path, "rb") as file:
            start = file.read(12 + gates.MAX_HEADER)
        size = path.stat().st_size
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror or error}") from error
    if (found := gates.nature(start)) and not start.startswith(b"\x93NUMPY"):
        raise LabError(f"{path} is {found}, not a NumPy array (.npy); {'download the raw file' if 'HTML' in found else 'give one of the course'}")
    return gates.npy_header(path, start, size)


def is_pictures(shape: tuple[int, ...]) -> bool:
    """Whether pictures of the course have this shape."""
    return len(shape) == 4 and shape[1:] == (16, 16, 3)


def is_labels(shape: tuple[int, ...]) -> bool:
    """Whether labels may have this shape."""
    return len(shape) == 1 or len(shape) == 2 and 1 <= shape[1] <= MAX_CLASSES


def check_swapped(pictures: Path, labels: Path) -> None:
    """LabError if the two files, where both can be read, are given in the wrong order."""
    try:
        shapes = header_of(pictures).shape, header_of(labels).shape
    except LabError:
        return  # what is wrong with one of them is said when it is read
    if is_labels(shapes[0]) and is_pictures(shapes[1]):
        raise LabError(f"the two files are swapped: {pictures} holds labels {shapes[0]}, {labels} pictures {shapes[1]}; give them the other way round")


def read_array(path: Path, what: str) -> tuple[bytes, gates.Header]:
    """The bytes of a .npy file and its header, which agrees with them."""
    data = gates.read_file(path, f"NumPy array of {what} (.npy)", f"give the course's file of {what}", b"\x93NUMPY")
    return data, gates.npy_header(path, data, len(data))


def read_pictures(path: Path) -> np.ndarray:
    """Pictures uint8 (N, 16, 16, 3) of a .npy file."""
    data, header = read_array(path, "pictures")
    dtype, shape = header.dtype, header.shape
    if not is_pictures(shape) or not shape[0] or not (dtype == np.uint8 or dtype.kind == "f"):
        raise LabError(f"{path} holds {dtype} {shape}, but pictures are uint8 (N, 16, 16, 3): colours 0 to 255, channels last. Convert them, and save them again with numpy.save")
    values = gates.npy_array(path, data, header=header)
    if values.dtype == np.uint8:
        return values
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise LabError(f"{path} holds {dtype} that are not all between 0 and 1; say what they mean: convert them to uint8, 0 to 255, and save them again with numpy.save")
    return np.round(values.astype(np.float64) * 255).astype(np.uint8)


def read_labels(path: Path) -> np.ndarray:
    """Labels of a .npy file as they are: (N, K) real numbers, or (N,) whole numbers from 0 to 999."""
    data, header = read_array(path, "labels")
    dtype, shape = header.dtype, header.shape
    if not is_labels(shape) or not shape[0] or dtype.kind not in ("biuf" if len(shape) == 2 else "iu"):
        raise LabError(f"{path} holds {dtype} {shape}, but labels are (N, K), a one in the column of the class and zeros beside it, or (N,) whole numbers")
    values = gates.npy_array(path, data, header=header)
    if values.ndim == 1 and (values.min() < 0 or values.max() >= MAX_CLASSES):
        raise LabError(f"{path} holds labels from {values.min()} to {values.max()}, but classes are numbered from 0, at most {MAX_CLASSES} of them")
    return values


def numbered(path: Path, labels: np.ndarray, count: int) -> np.ndarray:
    """The class of each picture, int64 (N,) in 0..count-1."""
    if labels.ndim == 1:
        if labels.max() >= count:
            raise LabError(f"{path} holds the label {labels.max()}, but there are names for {count} classes, 0 to {count - 1}")
        return labels.astype(np.int64)
    if len(faults := np.flatnonzero(((labels != 0) & (labels != 1)).any(1) | ((labels == 1).sum(1) != 1))):
        raise LabError(f"{path}: row {faults[0]:,} is not one-hot (a single 1, else 0), nor are {len(faults) - 1:,} others; the course's labels are")
    return (labels == 1).argmax(1)


def names_of(class_names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """The given names of `count` classes, or the usual ones."""
    if class_names is None:
        return CLASS_NAMES if count == len(CLASS_NAMES) else tuple(f"class {i + 1}" for i in range(count))
    names = tuple(class_names)
    if not all(isinstance(name, str) and is_class_name(name) for name in names) or len(set(names)) != len(names) or isinstance(class_names, str):
        raise LabError("class_names must be different texts without , and =, none of them 'none'")
    if len(names) < count:
        raise LabError(f"class_names has {len(names)} names, but there are {count} classes")
    return names


def distinct(sprites: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the different sprites, each where it comes first, and for every row its place among them."""
    seen: dict[bytes, int] = {}
    place = np.fromiter((seen.setdefault(sprite.tobytes(), len(seen)) for sprite in sprites), np.int64, len(sprites))
    return np.unique(place, return_index=True)[1], place


def repetition(place: np.ndarray, labels: np.ndarray) -> list[str]:
    """How often the pictures come, and with which period they and their labels do."""
    times = Counter(np.bincount(place).tolist())
    often = f"every one {next(iter(times)):,} times" if len(times) == 1 else f"every one {min(times):,} to {max(times):,} times"
    total, different = len(place), int(place.max()) + 1
    told = [f"{total:,} pictures, {different:,} different" + (f"; {often}, kept once" if different < total else "")]
    return told + [f"the {name} repeat with period {length:,}" for name, values in (("pictures", place), ("labels", labels)) if (length := period(values)) <= total // 2]


def period(values: np.ndarray) -> int:
    """The least p >= 1 with values[p:] equal to values[:-p], by the borders of all beginnings (Knuth, Morris and Pratt 1977)."""
    row, border, length = values.tolist(), [0] * len(values), 0
    for i in range(1, len(row)):
        while length and row[i] != row[length]:
            length = border[length - 1]
        length += row[i] == row[length]
        border[i] = length
    return len(row) - length


def differences(place: np.ndarray, labels: np.ndarray, kept: np.ndarray) -> list[str]:
    """How many pictures come with more than one label."""
    count = len(np.unique(place[labels != labels[kept][place]]))
    return [f"{count:,} pictures come with different labels; the first one is kept"] if count else []
