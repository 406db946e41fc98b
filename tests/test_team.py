"""Several processes as one: two gloo workers under torchrun train what one process trains, draw what it draws, and die together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small import SHORT, same_tensors, write_sprites, write_weights

from sprites_lab import LabError, checkpoints
from sprites_lab.team import Team, share_batch_norm, together

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]


def two(port, *command, **options):
    """Start a command with two workers; each test has its own port."""
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE}", "OMP_NUM_THREADS": "1", "SPRITES_LAB_STATIC": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen([*TORCHRUN, str(port), *map(str, command)], env=environment, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **options)


def ended(process, seconds=120):
    """What a command wrote, once it ended."""
    try:
        return process.communicate(timeout=seconds)
    finally:
        process.kill()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the workers of tests/team_worker.py found, two together and one alone."""
    folder = tmp_path_factory.mktemp("team")
    write_weights(folder / "w.safetensors")
    pair = two(29611, HERE / "team_worker.py", folder)
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE}", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, HERE / "team_worker.py", folder], env=environment, check=True)
    out, error = ended(pair)
    assert pair.returncode == 0, error
    return {name: torch.load(folder / f"{name}.pt", weights_only=False) for name in ("1-0", "2-0", "2-1")}


def test_workers_order_sum_tell_and_agree(found):
    alone, first, second = (found[name]["talk"] for name in ("1-0", "2-0", "2-1"))
    assert [found[name]["team"] for name in found] == [(0, 1), (0, 2), (1, 2)]
    assert alone["order"] == first["order"] == [0, 1, 2, 3, 4] and second["order"] == []
    assert first["told"] == second["told"] == alone["told"] == "worker 0"
    assert first["total"] == second["total"] == [2.0, 1.0] and alone["total"] == [1.0, 0.0]
    assert first["agreed"] is second["agreed"] is alone["agreed"] is alone["refused"] is None
    assert first["refused"] == second["refused"] == "the workers have different values: 0, 1. Give all machines the same files"


@pytest.mark.parametrize("recipe", ["course", "improved"])
def test_two_workers_train_what_one_process_trains(found, recipe):
    (one, _), (two_, theirs), (other, others) = (found[name][recipe] for name in ("1-0", "2-0", "2-1"))
    assert len(one) == 20 and two_ == other and same_tensors(theirs, others)  # the workers never part
    np.testing.assert_allclose(two_, one, rtol=1e-5)


def test_shared_batch_norm_is_batch_norm_of_the_whole_batch(found):
    alone, first, second = (found[name]["norm"] for name in ("1-0", "2-0", "2-1"))
    torch.testing.assert_close(torch.cat([first[0], second[0]]), alone[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(first[1], alone[1], rtol=0, atol=1e-6)  # the gradient knows the other's rows as well
    for name, tensor in alone[2].items():
        torch.testing.assert_close(first[2][name], tensor, rtol=0, atol=1e-6, msg=name)
        assert torch.equal(first[2][name], second[2][name])


def test_two_workers_make_for_evaluate_what_one_makes(found):
    ((sprites, labels), free), ((theirs, their_labels), their_free) = (found[name]["made"] for name in ("1-0", "2-0"))
    assert len(sprites) == 330 and len(free) == 66
    assert np.array_equal(sprites, theirs) and np.array_equal(labels, their_labels) and np.array_equal(free, their_free)
    assert not len(found["2-1"]["made"][0][0]) and not len(found["2-1"]["made"][1])  # the second one has nothing to measure


def test_a_share_is_never_empty_and_nothing_is_left_out():
    for size in range(1, 6):
        for count in range(size, 12):
            rows = [i for rank in range(size) for i in range(count)[Team(rank, size).share(count)]]
            assert rows == list(range(count)) and all(range(count)[Team(rank, size).share(count)] for rank in range(size))
    with pytest.raises(LabError, match="a batch of 2 cannot be shared by 3 workers"):
        Team(0, 3).share(2)


def test_alone_batch_norm_stays_torchs_own_and_a_lost_worker_is_named():
    norm = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    assert type(share_batch_norm(norm, Team())[0]) is torch.nn.BatchNorm2d
    with pytest.raises(LabError, match=r"another worker of this job was lost \(closed by peer\)"), together():
        raise RuntimeError("closed by peer\nstack")


def train(folder, sprites, *more):
    return "-m", "sprites_lab", "train", "--out", folder, "--sprites", sprites, "--device", "cpu", "--save-every", "1", *SHORT, *more


def workers_of(process):
    """The processes that torchrun has started, in the order of their rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    rank = {child: int(entry[5:]) for child in children for entry in Path(f"/proc/{child}/environ").read_text().split("\0") if entry.startswith("RANK=")}
    return sorted(map(int, rank), key=lambda child: rank[str(child)])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find a worker")
def test_a_lost_worker_ends_the_job_with_a_sentence_and_resume_goes_on(tmp_path):
    sprites, folder = write_sprites(tmp_path / "s.npz"), tmp_path / "run"
    job = two(29612, *train(folder, sprites, "--epochs", "500"))
    try:
        began = time.monotonic()
        while not (checkpoints.steps_in(folder) and folder.is_dir()) and time.monotonic() < began + 60:
            time.sleep(0.05)
        os.kill(workers_of(job)[1], signal.SIGKILL)
        killed = time.monotonic()
        _, error = ended(job, 30)
    finally:
        job.kill()
    assert time.monotonic() - killed < 30 and job.returncode != 0
    assert "another worker of this job was lost" in error or "stopped after update" in error, error
    done = checkpoints.load(checkpoints.latest(folder)).facts["updates"]
    job = two(29613, *train(folder, sprites, "--resume"))
    while checkpoints.load(checkpoints.latest(folder)).facts["updates"] < done + 3 and job.poll() is None:
        time.sleep(0.1)
    job.send_signal(signal.SIGINT)
    _, error = ended(job, 30)
    assert checkpoints.load(checkpoints.latest(folder)).facts["updates"] >= done + 3, error


def test_two_workers_draw_what_one_draws(tmp_path):
    weights, out = write_weights(tmp_path / "w.safetensors"), tmp_path / "two.npz"
    asked = ["-m", "sprites_lab", "sample", "--weights", weights, "--count", "150", "--steps", "2", "--device", "cpu", "--out"]
    _, error = ended(job := two(29614, *asked, out))
    assert job.returncode == 0, error
    subprocess.run([sys.executable, *map(str, asked), tmp_path / "one.npz"], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert out.read_bytes() == (tmp_path / "one.npz").read_bytes()
