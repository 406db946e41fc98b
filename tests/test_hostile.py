"""Files that are broken, foreign or hostile: 10,000 damaged ones and a dozen bombs, each refused in one sentence, or read as if nothing had happened."""

import io
import json
import re
import resource
import struct
import time
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from small import in_a_fork, network, same_tensors, sprite_arrays, write_sprites, write_weights
from test_original_lab import course_state, write_pth
from test_png import SIGNATURE, chunk, header

from sprites_lab import LabError, checkpoints, data, lab, original_lab, original_sprites, own_sprites
from sprites_lab.png import read_png

EACH = 2000  # damaged files of each of the five kinds
ADVICE = re.compile(r"\b(copy|download|save|give|choose|use|say|run|rename|leave|cut|pull|update|look|put|make|train|export|import|needed is|must)\b", re.IGNORECASE)


def damaged(good, other, count, seed):
    """Copies of the bytes `good` with one of eight kinds of damage, some of it from the file `other`."""
    chance = np.random.default_rng(seed)
    for number in range(count):
        near_an_end = number % 3 == 0  # lists of contents and headers are at the ends
        reach = min(len(good), 200) if near_an_end else len(good)
        start = int(chance.integers(reach)) if number % 2 else len(good) - 1 - int(chance.integers(reach))
        stop = min(len(good), start + int(chance.integers(1, 40)))
        noise = chance.bytes(stop - start)
        yield [
            lambda: good[:start] + bytes([good[start] ^ 1 << int(chance.integers(8))]) + good[start + 1 :],
            lambda: good[:start] + noise + good[stop:],
            lambda: good[:start],
            lambda: good[:start] + good[stop:],
            lambda: good[:start] + noise + good[start:],
            lambda: good[:start] + bytes(stop - start) + good[stop:],
            lambda: good[:start] + other[start:],
            lambda: good + noise,
        ][number % 8]()


def write_npy(path, seed=0):
    np.save(path, sprite_arrays(count=6, seed=seed)["sprites"])
    np.save(path.with_name("labels.npy"), np.eye(5)[np.arange(6) % 5])


def write_png(path, seed=0):
    colours = np.random.default_rng(seed).integers(0, 256, (16, 16, 4), np.uint8)
    Image.fromarray(colours, "RGBA").save(path)


def read_npz(path):
    found = data.load_sprites(path)
    return [found.sprites, found.labels, found.kinds, found.held_out, found.kind_names, found.class_names]


def read_npy(path):
    return [original_sprites.course_sprites(path, path.with_name("labels.npy")).sprites.sprites.shape]


def read_pth(path):
    return original_lab.load_course_weights(path, forward="sqrt").model.state_dict()


KINDS = {
    "npz": (lambda path, seed: write_sprites(path, seed=seed), read_npz),
    "npy": (write_npy, read_npy),  # holds no checksum: other pixels cannot be noticed, another shape can
    "pth": (lambda path, seed: write_pth(path, course_state(8, 2, seed)), read_pth),
    "safetensors": (lambda path, seed: write_weights(path, network(seed, height=4)), lambda path: checkpoints.load(path).groups),
    "png": (write_png, lambda path: [read_png(path)]),
}


def equal(one, other):
    if isinstance(one, dict):
        return same_tensors(one, other)
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_damaged_files_are_refused_in_a_sentence_or_read_as_if_whole(tmp_path, kind):
    write, read = KINDS[kind]
    path, other = tmp_path / f"file.{kind}", tmp_path / f"other.{kind}"
    write(other, 1)
    write(path, 0)
    whole, another, good, refused = read(path), read(other), path.read_bytes(), 0
    before = torch.get_rng_state()
    for content in damaged(good, other.read_bytes(), EACH, len(kind)):
        path.write_bytes(content)
        try:
            found = read(path)
        except LabError as error:
            sentence, refused = str(error), refused + 1
            assert path.name in sentence and "\n" not in sentence and len(sentence) < 600 and ADVICE.search(sentence.replace(str(path), "")), sentence
        else:
            assert equal(found, whole) or equal(found, another)  # if it goes on with the other file before the first byte that counts
    assert refused > EACH / 2 and torch.equal(torch.get_rng_state(), before)


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return file.getvalue()


def npy_header(shape, descr="|u1"):
    text = str({"descr": descr, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def safetensors(names):
    facts = {"format": 1, "network": dict(features=1024, context_size=100_000, height=256, channels=100_000, timesteps=100_000), "schedule": "x"}
    text = json.dumps({"__metadata__": {"sprites_lab": json.dumps(facts), "sha256": "0"}} | names).encode()
    return struct.pack("<Q", len(text)) + text


EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
ZEROS = bytes(300 << 20)
BOMBS = {
    "zeros.npz": lambda: zipped(sprites__npy=npy_header((300 << 20,)) + ZEROS),
    "many.npz": lambda: zipped(**{f"{i}__npy": b"" for i in range(20_000)}),
    "names.npz": lambda: zipped(sprites__npy=npy_header((10**6, 10**6)), labels__npy=npy_header((2**40, 2**40))),
    "long.npz": lambda: zipped(sprites__npy=b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + bytes(1 << 20)),
    "shape.npy": lambda: npy_header((10**9, 16, 16, 3)),
    "texts.npy": lambda: npy_header((16,), "<U99999"),
    "nested.npy": lambda: b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
    "packed.pth": lambda: zipped(**{"archive/data__pkl": ZEROS, "archive/data/0": ZEROS}),
    "sizes.safetensors": lambda: safetensors({}),
    "tensors.safetensors": lambda: safetensors({f"model/{i}": EMPTY for i in range(10_000)}),
    "garbage.safetensors": lambda: b"\xff" * (200 << 20),
    "garbage.pth": lambda: b"\xff" * (200 << 20),
    "nested.safetensors": lambda: struct.pack("<Q", 1 << 19) + b"[" * (1 << 19),
    "large.png": lambda: SIGNATURE + header(60_000, 60_000) + chunk(b"IDAT", zlib.compress(ZEROS)) + chunk(b"IEND", b""),
    "deep.png": lambda: SIGNATURE + header(16, 16) + chunk(b"IDAT", zlib.compress(ZEROS)) + chunk(b"IEND", b""),
    "text.png": lambda: SIGNATURE + header(16, 16) + chunk(b"zTXt", b"a\0\0" + zlib.compress(ZEROS)) + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
    "frames.png": lambda: SIGNATURE + header(2048, 2048) + chunk(b"acTL", struct.pack(">II", 10_000, 0)) + chunk(b"IDAT", zlib.compress(ZEROS)) + chunk(b"IEND", b""),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_little_memory_and_no_time(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BOMBS[name]())
    read = {"npz": data.load_sprites, "npy": lambda path: original_sprites.course_sprites(path, path), "png": lambda path: own_sprites.import_sprites([path])}.get(path.suffix[1:], lab.load_weights)

    def read_it():
        resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        with pytest.raises(LabError, match=re.escape(path.name)):
            read(path)
        rise, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - began
        assert rise < 64 << 10 and seconds < 1, f"{rise / 1024:.0f} MiB, {seconds:.1f} s"

    assert in_a_fork(read_it) == 0


def test_a_web_page_under_any_name_is_called_one(tmp_path):
    for name, read in {"a.npz": data.load_sprites, "a.npy": lambda path: original_sprites.course_sprites(path, path), "a.png": read_png, "a.pth": lab.load_weights, "a.safetensors": lab.load_weights}.items():
        (tmp_path / name).write_text("\n <!DOCTYPE html>\n<html><body>Not found</body></html>")
        with pytest.raises(LabError, match=f"{name} is an HTML page.*download the raw file"):
            read(tmp_path / name)
