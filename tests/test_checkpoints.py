"""Networks on disk: what was saved comes back, damage is seen, and a file is never half written."""

import builtins
import errno
import itertools
import json
import os
import resource
import signal
import time
from functools import partial

import checks
import numpy as np
import pytest
import small
import torch
from safetensors.torch import save as write_safetensors
from small import in_a_fork, network, same_tensors, snapshot, write_weights

from sprites_lab import LabError, TrainingState, checkpoints, linear_schedule
from sprites_lab.checkpoints import digest, latest, load, save, step_path, tidy, write_bytes

SIZES = dict(features=8, context_size=5, height=4, channels=3, timesteps=500)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def write_any(path, tensors, facts=None, **changes):
    """A file with a right checksum around any tensors and facts, as a stranger could make one."""
    facts = dict(format=1, network=SIZES, schedule="linear", predicts="noise", classes=[]) | (facts or {})
    text = json.dumps(facts, sort_keys=True)
    path.write_bytes(write_safetensors(tensors, {"sprites_lab": text, "sha256": digest(text, tensors), **changes}))
    return path


def good_tensors(**changes):
    """The tensors of a small network and its schedule, with changes (None: left out)."""
    tensors = {f"model/{n}": t for n, t in network(height=4).state_dict().items()} | {"schedule/beta": linear_schedule().beta}
    return {n: t.clone().contiguous() for n, t in (tensors | changes).items() if t is not None}


refusal = partial(small.refusal, load)


@pytest.fixture
def remembered(monkeypatch):
    """Build each network once: the gates stay, a thousand damaged files are read in seconds."""
    build, built = checkpoints.build, {}

    def build_once(path, facts, *rest):
        key = json.dumps([facts.get("network"), *rest]) if isinstance(facts, dict) else None
        if key not in built:
            built[key] = build(path, facts, *rest)
        return built[key]

    monkeypatch.setattr(checkpoints, "build", build_once)


# Reading


def test_what_was_saved_comes_back():
    checks.check_round_trip()


def test_a_file_says_what_its_network_is_and_predicts(path):
    write_weights(path)
    facts = load(path).facts
    assert (facts["format"], facts["predicts"], facts["schedule"]) == (1, "noise", linear_schedule().name)
    assert facts["network"] == network().settings


@pytest.mark.slow
def test_a_thousand_flips_and_300_truncations_are_all_refused(remembered):
    checks.check_damage(1000, 300)


def test_loading_draws_no_random_numbers(path):
    write_weights(path)
    before = torch.get_rng_state()
    load(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_average_is_loaded_where_there_is_one_and_either_on_request(path):
    model, average = network(1), network(2)
    save(path, {"model": model.state_dict(), "average": average.state_dict()}, model, linear_schedule(), {})
    assert same_tensors(load(path).model.state_dict(), average.state_dict())
    assert same_tensors(load(path, "model").model.state_dict(), model.state_dict())
    with pytest.raises(LabError, match="no weights 'optimizer'"):
        load(path, "optimizer")


def test_what_was_saved_is_a_copy_of_that_moment(path):
    model = network()
    before = snapshot(model.state_dict())
    write_weights(path, model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    assert same_tensors(load(path).model.state_dict(), before)


@pytest.mark.parametrize("half, size", [(False, 4), (True, 2)])
def test_half_precision_halves_the_file(path, half, size):
    model = network(features=64, height=8)
    write_weights(path, model, half)
    assert abs(os.path.getsize(path) / (size * sum(p.numel() for p in model.parameters())) - 1) < 0.1


def test_weights_too_large_for_half_precision_are_not_written(path):
    model = network(height=4)
    model.out[0].bias.data[0] = 1e5
    with pytest.raises(LabError, match=r"out\.0\.bias"):
        write_weights(path, model, half=True)
    assert not path.exists()


def test_values_that_are_no_finite_numbers_are_not_written():
    checks.check_values_are_checked()


NAN = torch.full((3,), float("nan"))


@pytest.mark.parametrize("change, word", [
    ({"model/out.3.bias": None}, "missing out.3.bias"),
    ({"model/extra": torch.zeros(2)}, "unexpected extra"),
    ({"model/out.3.bias": torch.zeros(4)}, "out.3.bias is (4,), not (3,)"),
    ({"model/out.3.bias": torch.zeros(1, 3)}, "out.3.bias is (1, 3), not (3,)"),
    ({"model/out.3.bias": NAN}, "out.3.bias"), ({"model/out.3.bias": NAN * 0 + float("inf")}, "out.3.bias"),
    ({"model/out.3.bias": torch.zeros(3, dtype=torch.int64)}, "out.3.bias"),
    ({"model/out.3.bias": torch.zeros(3, dtype=torch.float64)}, "out.3.bias"),
    ({"model/out.3.bias": torch.zeros(3, dtype=torch.complex64)}, "out.3.bias"),
    ({"model/out.3.bias": torch.zeros(3, dtype=torch.bool)}, "out.3.bias"),
    ({"model/init_conv.conv1.1.num_batches_tracked": torch.tensor(1.0)}, "num_batches_tracked"),
    ({"schedule/beta": None}, "schedule"), ({"schedule/beta": torch.zeros(501, dtype=torch.float64)}, "beta"),
    ({"schedule/beta": torch.full((501, 1), 0.1)}, "beta"), ({"schedule/beta": NAN.double()}, "beta"),
    ({"schedule/beta": torch.full((11,), 0.1, dtype=torch.float64)}, "10 timesteps"),
], ids=str)  # fmt: skip
def test_tensors_that_do_not_fit_the_network_are_refused_by_name(path, change, word):
    refusal(write_any(path, good_tensors(**change)), word)


def test_at_most_five_faults_are_named(path):
    sentence = refusal(write_any(path, {"model/a": torch.zeros(1)}), "missing init_conv", "…")
    assert sentence.count("missing") == 5


def test_the_good_file_of_these_tests_is_good(path):
    assert load(write_any(path, good_tensors())).model.settings == SIZES


@pytest.mark.parametrize("sizes", [
    dict(features=16), dict(context_size=6), dict(channels=1), dict(height=8), dict(timesteps=100), dict(features=12),
    dict(features=-8), dict(features="8"), dict(features=8.0), dict(features=True), dict(features=None), dict(height=10**9),
    dict(context_size=10**6), dict(channels=10**5),
], ids=str)  # fmt: skip
def test_a_header_with_other_sizes_than_its_tensors_is_refused(path, sizes):
    refusal(write_any(path, good_tensors(), {"network": SIZES | sizes}))


@pytest.mark.parametrize("network", [None, [], "unet", 7, {}, {"features": 8}], ids=str)
def test_a_header_without_sizes_is_refused(path, network):
    refusal(write_any(path, good_tensors(), {"network": network}), "header describes no network")


@pytest.mark.parametrize("features", [1024, 512])
def test_huge_sizes_in_the_header_are_refused_before_memory_is_taken(path, features):
    write_any(path, {"model/a": torch.zeros(1), "schedule/beta": linear_schedule().beta}, {"network": SIZES | {"features": features}})

    def try_it():
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        refusal(path)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert grown < 64 and time.monotonic() - began < 5, f"{grown:.0f} MiB, {time.monotonic() - began:.1f} s"

    assert in_a_fork(try_it) == 0


@pytest.mark.parametrize("version, words", [(2, ["format 2", "update sprites_lab"]), (99, ["format 99"])])
def test_a_file_of_a_newer_version_says_so(path, version, words):
    refusal(write_any(path, good_tensors(), {"format": version}), *words)


@pytest.mark.parametrize("version", [None, "one", [], 0, -1, float("inf")], ids=str)
def test_a_file_of_no_known_version_is_refused(path, version):
    refusal(write_any(path, good_tensors(), {"format": version}))


@pytest.mark.parametrize("content, words", [
    (b"<!DOCTYPE html><html><body>Not Found</body></html>", ["HTML", "download the raw file"]),
    (b"\n  <html><head></head></html>", ["HTML"]),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", ["Git LFS", "git lfs pull"]),
    (b"PK\x03\x04" + bytes(100), ["zip"]), (b"", ["0 bytes"]), (b"12345678", ["only the start of one"]),
    (bytes(100), ["safetensors"]), (b"\xff" * 100, ["safetensors"]), (b"hello, this is a text file", ["safetensors"]),
], ids=lambda value: repr(value)[:24])  # fmt: skip
def test_other_things_than_weights_are_recognised(path, content, words):
    path.write_bytes(content)
    sentence = refusal(path, *words)
    assert "pickle" not in sentence


HEADER = {"__metadata__": {"sprites_lab": json.dumps({"format": 1, "network": SIZES}), "sha256": ""}}


@pytest.mark.parametrize("header", [
    b"{", b"[]", b"null", b"7", b"{}", b'{"__metadata__": null}', b'{"__metadata__": {}}', b'{"__metadata__": []}',
    b'{"a": 1, "a": 2}', b"\xff\xfe", b"[" * 2000, b'{"__metadata__": {"sprites_lab": "7", "sha256": "0"}}',
    *(json.dumps(HEADER | {"model/a": entry}).encode() for entry in (
        7, None, [], {}, {"data_offsets": []}, {"data_offsets": [0]}, {"data_offsets": "0,4"}, {"data_offsets": [0, "4"]},
        {"data_offsets": {"1": 2}}, {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]},
    )),
], ids=lambda header: header[-60:].decode(errors="replace"))  # fmt: skip
def test_a_header_that_is_none_is_refused(path, header):
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    refusal(path)


def test_a_missing_file_and_a_folder_say_what_to_do(tmp_path):
    assert "train" in refusal(tmp_path / "nothing.safetensors", "there is no weights file")
    refusal(tmp_path, "no file")


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refusal(tmp_path / "pipe", "no file")


def test_a_name_longer_than_the_system_allows_is_refused(tmp_path):
    refusal(tmp_path / ("x" * 300))


@pytest.mark.parametrize("length", [0x4B50, 0x6B70])
def test_a_header_whose_length_reads_like_a_zip_is_not_mistaken_for_one(path, length):
    write_weights(path, network(height=4))
    model, plain = network(height=4), int.from_bytes(path.read_bytes()[:8], "little")
    write_weights(path, model, note="x" * (length - plain - 16))
    for pad in range(40):  # the format rounds its header up to whole words of 8 bytes
        if int.from_bytes(path.read_bytes()[:8], "little") == length:
            break
        write_weights(path, model, note="x" * (length - plain - 16 + pad))
    assert path.read_bytes()[:8] == length.to_bytes(8, "little")
    assert same_tensors(load(path).model.state_dict(), model.state_dict())


def test_a_changed_fact_is_noticed(path):
    write_weights(path, network(height=4), note="honest")
    path.write_bytes(path.read_bytes().replace(b"honest", b"forged"))
    refusal(path, "checksum")


# Writing


@pytest.fixture
def old(path):
    """A file that must survive, and the bytes that it holds."""
    path.write_bytes(b"the old content")
    yield path
    assert path.read_bytes() == b"the old content"
    assert os.listdir(path.parent) == [path.name], "a temporary file was left"


class FullDisk:
    """A file that has no room for what is written."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


def full(*given):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_no_room_while_writing_keeps_the_old_file(old, monkeypatch):
    real = builtins.open
    with monkeypatch.context() as patched:
        patched.setattr(builtins, "open", lambda name, *mode: FullDisk(real(name, *mode)))
        with pytest.raises(LabError, match=r"9 bytes.*No space left"):
            write_bytes(old, b"new bytes")


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_no_room_while_flushing_or_moving_keeps_the_old_file(old, monkeypatch, name):
    with monkeypatch.context() as patched:
        patched.setattr(os, name, full)
        with pytest.raises(LabError, match=r"9 bytes.*No space left"):
            write_bytes(old, b"new bytes")


def test_an_interrupt_while_flushing_keeps_the_old_file(old, monkeypatch):
    def interrupt(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_bytes(old, b"new bytes")


def test_tensors_that_are_not_finite_keep_the_old_file(old):
    model = network(height=4)
    model.out[0].bias.data[0] = float("nan")
    with pytest.raises(LabError):
        write_weights(old, model)


def test_facts_that_no_reader_of_json_would_understand_keep_the_old_file(old):
    with pytest.raises(ValueError, match="JSON"):
        write_weights(old, network(height=4), loss=float("nan"))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, 1000, 4095, 4096, 4097, *range(8000, 68_000, 6000)])
def test_a_limit_on_file_size_keeps_the_old_file(old, size):
    def save_with_limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        with pytest.raises(LabError, match="bytes"):
            write_weights(old, network(height=4))

    assert in_a_fork(save_with_limit) == 0


def test_the_content_is_on_the_disk_before_it_takes_the_name(path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace

    def spy_fsync(handle):
        calls.append("sync folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "sync file")
        return fsync(handle)

    def spy_replace(source, target):
        assert source.parent == target.parent and source.read_bytes() == b"content" and str(os.getpid()) in source.name
        calls.append("replace")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    write_bytes(path, b"content")
    assert calls == ["sync file", "replace", "sync folder"] and path.read_bytes() == b"content"


@pytest.mark.parametrize("moment", range(8))
def test_a_kill_at_any_moment_of_writing_leaves_the_old_file_or_the_new(path, moment):
    path.write_bytes(b"old")

    def write_and_die():
        moments = itertools.count()

        def pass_moment():
            if next(moments) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        for place, name in ((builtins, "open"), (os, "fsync"), (os, "replace")):

            def dying(*given, real=getattr(place, name)):
                pass_moment()
                answer = real(*given)
                pass_moment()
                return answer

            setattr(place, name, dying)
        write_bytes(path, b"new")

    assert in_a_fork(write_and_die) == -signal.SIGKILL
    assert path.read_bytes() == (b"old" if moment < 5 else b"new")
    tidy(path.parent)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.slow
def test_200_kills_at_random_moments_leave_a_good_file_each_time(path):
    models = [network(seed, height=4) for seed in (1, 2)]
    wanted = [model.state_dict() for model in models]
    write_weights(path, models[0])
    began = time.monotonic()
    write_weights(path, models[0])
    usual = time.monotonic() - began
    chance, kept, during = np.random.default_rng(0), set(), 0
    for _ in range(200):
        pid = os.fork()
        if pid == 0:
            while True:
                for model in reversed(models):
                    write_weights(path, model)
        time.sleep((0.005 + 6 * usual) * chance.random())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        during += len(os.listdir(path.parent)) > 1  # a temporary file tells that the kill came while one was written
        found = load(path).groups["model"]
        kept.add([same_tensors(found, one) for one in wanted].index(True))
        tidy(path.parent)
        assert os.listdir(path.parent) == [path.name]
    assert kept == {0, 1} and during > 5


def test_new_folders_are_made_and_names_in_use_are_refused(tmp_path):
    write_bytes(tmp_path / "new" / "deep" / "file", b"content")
    assert (tmp_path / "new" / "deep" / "file").read_bytes() == b"content"
    for place in (tmp_path / "new", tmp_path / "new" / "deep" / "file" / "below"):
        with pytest.raises(LabError, match="cannot write"):
            write_bytes(place, b"content")
    assert sorted(os.listdir(tmp_path)) == ["new"] and os.listdir(tmp_path / "new") == ["deep"]


def test_a_written_file_has_the_rights_that_the_user_gives_to_new_files(path):
    mask = os.umask(0o027)
    try:
        write_bytes(path, b"content")
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o640


# The checkpoints of a run


def write_steps(folder, *updates):
    state = TrainingState(network(height=4))
    for number in updates:
        save(step_path(folder, number), state.tensors(), state.model, linear_schedule(), {"updates": number})


def test_the_newest_checkpoint_is_the_highest_step_that_is_readable(tmp_path):
    assert latest(tmp_path) is None
    write_steps(tmp_path, 5, 20, 100)
    os.utime(step_path(tmp_path, 5))
    assert latest(tmp_path) == step_path(tmp_path, 100)
    content = step_path(tmp_path, 100).read_bytes()
    step_path(tmp_path, 100).write_bytes(content[:-1])
    assert latest(tmp_path) == step_path(tmp_path, 20)


def test_tidying_keeps_two_checkpoints_and_leaves_other_files(tmp_path):
    write_steps(tmp_path, 5, 10, 15)
    others = ["log.csv", "sprites.safetensors", "notes.tmp", "step-by-step.safetensors", "step-0-mine.safetensors"]
    for name in others:
        (tmp_path / name).write_text("mine")
    tidy(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "step-00000010.safetensors", "step-00000015.safetensors"])


def test_tidying_removes_temporary_files_of_dead_processes_only(tmp_path):
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    mine, orphan = f".a.safetensors.{os.getpid()}-00ff00ff.tmp", f".a.safetensors.{dead}-00ff00ff.tmp"
    for name in (mine, orphan, ".other.tmp"):
        (tmp_path / name).write_text("")
    tidy(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([mine, ".other.tmp"])


def test_a_process_that_cannot_be_asked_counts_as_running(monkeypatch):
    def refused(pid, number):
        assert number == 0, "a signal was sent"
        raise PermissionError

    assert checkpoints.is_running(os.getpid())
    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", refused)
        assert checkpoints.is_running(1)
        patched.setattr(os, "name", "nt")  # Windows: asking would end it
        patched.delattr(os, "kill")
        assert checkpoints.is_running(1)


def test_a_file_is_told_from_others_by_its_bytes(path):
    path.write_bytes(b"sprites")
    assert checkpoints.sha256_of(path) == "a34b89cc66c81867313bbada71e7f5958d8d1f4c635c754c3bb6ca3a1998c2f9"


def test_two_processes_that_save_under_one_name_never_leave_a_bad_file(path):
    def save_often(seed):
        model = network(seed, height=4)
        return lambda: [write_weights(path, model) for _ in range(20)]

    children = []
    for seed in (1, 2):
        pid = os.fork()
        if pid == 0:
            os._exit(in_a_fork(save_often(seed)))
        children.append(pid)
    reads = 0
    while children:
        if path.exists():
            load(path)
            reads += 1
        children = [pid for pid in children if os.waitpid(pid, os.WNOHANG) == (0, 0)]
    assert reads > 0 and os.listdir(path.parent) == [path.name]
