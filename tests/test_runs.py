"""Training runs in a folder: checkpoints, going on, refusing to mix runs up, surviving a kill."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small import SHORT, generator, network, same_tensors, snapshot, write_sprites, write_weights

from sprites_lab import LabError, checkpoints, conditioned, ddim, final, lab, locks, recipes, runs
from sprites_lab.muon import Muon
from sprites_lab.recipes import improved_recipe
from sprites_lab.runs import facts_of, go, open_run
from sprites_lab.training import linear_fall, noise_loss, uniform_t

CPU = torch.device("cpu")
RECIPE = dict(epochs=4, batch_size=4, learning_rate=0.001, features=8, precision="float32", average_decay=0.9)  # 12 sprites: 3 updates an epoch
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def sprites(tmp_path):
    return write_sprites(tmp_path / "sprites.npz")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def start(folder, sprites, resume=False, **changes):
    chosen = {} if resume else RECIPE
    return open_run(folder, resume, CPU, sprites, **chosen | changes)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.slow
def test_a_run_that_was_stopped_and_resumed_writes_the_same_network_as_a_straight_one(tmp_path, folder, sprites):
    list(go(start(tmp_path / "straight", sprites), 100))
    steps = go(start(folder, sprites), 3)
    for progress in steps:
        if progress.updates == 7:
            break
    steps.close()
    again = start(folder, sprites, resume=True)
    assert again.state.updates == 7 and again.recipe == runs.RECIPE | RECIPE
    assert [p.updates for p in go(again, 3)] == [8, 9, 10, 11, 12]
    for name in (runs.FINAL, "epoch-00.safetensors", "epoch-03.safetensors", "step-00000012.safetensors"):
        one, other = (checkpoints.load(place / name) for place in (tmp_path / "straight", folder))
        assert same_tensors(one.groups, other.groups), name
        assert one.facts == other.facts, name


def test_a_run_can_begin_with_trained_weights_and_counts_all_updates(folder, sprites, tmp_path):
    weights = write_weights(tmp_path / "trained.safetensors", network(seed=3), updates=40, updates_before=2)
    run = start(folder, sprites, start=str(weights))
    assert same_tensors(run.state.model.state_dict(), network(seed=3).state_dict())
    steps = go(run, 1)
    next(steps)
    steps.close()
    facts = checkpoints.load(checkpoints.latest(folder)).facts
    assert (facts["updates"], facts["updates_before"], facts["recipe"]["start"]) == (1, 42, str(weights))
    assert start(folder, sprites, resume=True).updates_before == 42


@pytest.mark.parametrize("sizes, word", [(dict(height=8), "8 pixels"), (dict(features=16), "16 features")])
def test_trained_weights_that_do_not_fit_are_refused(folder, sprites, tmp_path, sizes, word):
    weights = write_weights(tmp_path / "trained.safetensors", network(**sizes))
    with pytest.raises(LabError, match=word):
        start(folder, sprites, start=str(weights))
    assert not folder.exists()


def test_a_run_writes_what_it_promises(folder, sprites):
    run = start(folder, sprites)
    assert run.updates_per_epoch == 3 and run.total == 12
    seen = list(go(run, 5))
    assert names(folder) == [
        "epoch-00.safetensors", "epoch-03.safetensors", "log.csv", "sprites.safetensors",
        "step-00000010.safetensors", "step-00000012.safetensors",
    ]  # fmt: skip
    final = checkpoints.load(folder / runs.FINAL)
    assert final.facts["classes"] == ["hero", "non-hero", "food", "spell", "side-facing"]
    assert (final.facts["kind"], final.facts["weights"], final.facts["updates"]) == ("network", "average", 12)
    expected = {n: t.half().float() if t.is_floating_point() else t for n, t in run.state.average.state_dict().items()}
    assert same_tensors(final.model.state_dict(), expected)
    last = checkpoints.load(folder / "epoch-03.safetensors")
    expected = {n: t.half().float() if t.is_floating_point() else t for n, t in run.state.model.state_dict().items()}
    assert same_tensors(last.model.state_dict(), expected)
    with open(folder / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["updates"] for row in rows] == ["5", "10", "12"]
    assert abs(float(rows[0]["loss"]) - np.mean([p.loss for p in seen[:5]])) < 1e-4
    assert abs(float(rows[2]["loss"]) - np.mean([p.loss for p in seen[10:]])) < 1e-4


def test_only_the_training_split_is_trained_on(folder, sprites, monkeypatch):
    seen = []

    def spy(state, schedule, x0, contexts, *recipe, **more):
        seen.append((x0, contexts))
        return iter([])

    monkeypatch.setattr(recipes, "train", spy)
    run = start(folder, sprites)
    list(go(run))
    (x0, contexts), training = seen[0], np.arange(16) % 4 != 3
    assert torch.equal(x0, run.sprites.pictures()[training]) and torch.equal(contexts, torch.eye(5)[np.arange(16)[training] % 5])


def test_the_first_weights_follow_from_the_seed(folder, sprites):
    before = torch.get_rng_state()
    one, same, other = (snapshot(start(folder, sprites, seed=seed).state.model.state_dict()) for seed in (1, 1, 2))
    assert same_tensors(one, same) and not same_tensors(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_stopping_early_keeps_the_last_whole_update_and_closing_at_once_keeps_nothing(folder, sprites):
    steps = go(start(folder, sprites), 100)
    next(steps), next(steps)
    steps.close()
    assert names(folder) == ["log.csv", "step-00000002.safetensors"]
    steps = go(start(folder, sprites, resume=True), 100)
    steps.close()
    assert names(folder) == ["log.csv", "step-00000002.safetensors"]


def test_a_used_folder_is_refused_without_resume_and_an_empty_one_with_it(folder, sprites):
    with pytest.raises(LabError, match="no readable checkpoint.*without --resume"):
        start(folder, sprites, resume=True)
    assert not folder.exists()
    steps = go(start(folder, sprites), 100)
    next(steps)
    steps.close()
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(LabError, match="already holds a run.*--resume"):
        start(folder, sprites)
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_folder_with_a_finished_network_is_refused(folder, sprites):
    folder.mkdir()
    (folder / runs.FINAL).write_text("a network")
    with pytest.raises(LabError, match="finished network"):
        start(folder, sprites)


def test_a_run_may_start_from_the_weights_of_a_file(folder, sprites, tmp_path):
    weights = str(write_weights(tmp_path / "start.safetensors", network(4)))
    run = start(folder, sprites, start=weights)
    assert same_tensors(snapshot(run.state.model.state_dict()), snapshot(network(4).state_dict()))
    assert same_tensors(snapshot(run.state.average.state_dict()), snapshot(network(4).state_dict())) and run.state.updates == 0
    steps = go(run, 100)
    next(steps)
    steps.close()
    assert start(folder, sprites, resume=True, start=weights).recipe["start"] == weights
    with pytest.raises(LabError, match="start=.* keeps its recipe"):
        start(folder, sprites, resume=True, start="other.safetensors")


@pytest.mark.slow
def test_a_run_stopped_at_any_of_its_12_updates_ends_with_the_same_state_and_the_same_sprites(tmp_path, sprites):
    def end(folder, splits):
        for split in (*splits, 12):
            steps = go(start(folder, sprites, resume=folder.exists()), 100)
            while (run := next(steps)).updates < split:
                pass
            steps.close()
        state = start(folder, sprites, resume=True).state  # read from its file
        average = lab.load_weights(checkpoints.latest(folder))  # the average is what samples
        drawn = final(ddim(conditioned(average.model, torch.eye(5)[0]), average.schedule, lab.starting_noise(4), 5))
        return snapshot(state.tensors()), drawn

    tensors, drawn = end(tmp_path / "straight", ())
    assert {"model", "average", "optimizer"} == tensors.keys() and any("running_mean" in name for name in tensors["model"])
    for split in [*[(k,) for k in range(1, 12)], tuple(range(1, 12))]:
        again, drawn_again = end(tmp_path / f"split{len(split)}-{split[0]}", split)
        assert same_tensors(again, tensors) and torch.equal(drawn_again, drawn), split


def test_trained_weights_go_on_with_other_classes(folder, sprites, tmp_path):
    weights = write_weights(tmp_path / "start.safetensors", network(seed=3, context_size=3), classes=["a", "b", "c"])
    run = start(folder, sprites, start=str(weights))
    before, x, t = network(seed=3, context_size=3), torch.randn(2, 3, 16, 16, generator=generator()), torch.tensor([3, 400])
    assert run.state.model.settings["context_size"] == 5
    with torch.no_grad():
        assert torch.allclose(run.state.model.eval()(x, t), before(x, t), atol=1e-5)  # without context nothing has changed
        told = run.state.model(x[:1].expand(5, -1, -1, -1), t[:1].expand(5), torch.eye(5))
    assert len({row.numpy().tobytes() for row in told}) == 5
    again = start(tmp_path / "again", sprites, start=str(weights))
    assert same_tensors(run.state.model.state_dict(), again.state.model.state_dict())
    same = write_weights(tmp_path / "same.safetensors", network(seed=4))
    assert same_tensors(start(tmp_path / "same", sprites, start=str(same)).state.model.state_dict(), network(seed=4).state_dict())


def test_a_quick_training_goes_on_from_the_shipped_network(tmp_path):
    file = write_sprites(tmp_path / "s.npz", class_names=np.array([*"abcdef"]))
    run = open_run(tmp_path / "run", False, CPU, file, quick=True)
    assert run.total == runs.QUICK and run.state.model.settings["context_size"] == 6 and run.updates_before > 0  # 12 sprites: one update an epoch
    assert facts_of(run)["classes"] == [*"abcdef"]


@pytest.fixture
def begun(folder, sprites):
    steps = go(start(folder, sprites), 1)
    next(steps), next(steps)
    steps.close()
    return folder


@pytest.mark.parametrize("change", [dict(epochs=5), dict(batch_size=5), dict(seed=1), dict(features=16), dict(learning_rate=0.1)], ids=str)
def test_a_resumed_run_keeps_its_recipe(begun, sprites, change):
    with pytest.raises(LabError, match=f"{next(iter(change))}=.* keeps its recipe"):
        start(begun, sprites, resume=True, **change)
    assert start(begun, sprites, resume=True, **{name: RECIPE.get(name, runs.RECIPE[name]) for name in change}).state.updates == 2


def test_a_resumed_run_keeps_its_sprites(begun, tmp_path):
    with pytest.raises(LabError, match="trained on other sprites"):
        start(begun, write_sprites(tmp_path / "other.npz", seed=1), resume=True)


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(begun, sprites):
    newest = begun / "step-00000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert start(begun, sprites, resume=True).state.updates == 1


def test_a_network_file_that_poses_as_a_checkpoint_is_refused_with_a_sentence(folder, sprites):
    list(go(start(folder, sprites, epochs=1), 100))
    for name in names(folder):
        if name.startswith("step"):
            (folder / name).unlink()
    (folder / runs.FINAL).rename(folder / "step-00000009.safetensors")
    with pytest.raises(LabError):
        start(folder, sprites, resume=True)


def test_a_loss_that_explodes_keeps_what_was_trained_so_far(folder, sprites, monkeypatch):
    from sprites_lab import training

    real = training.noise_loss

    def poisoned(model, schedule, x0, context, t, noise):
        value = real(model, schedule, x0 * (float("nan") if run.state.updates == 3 else 1), context, t, noise)
        return value

    run = start(folder, sprites)
    monkeypatch.setattr(recipes, "train", lambda *given, **more: training.train(*given, **more | dict(loss=poisoned)))
    with pytest.raises(LabError, match="loss became nan at update 4"):
        list(go(run, 100))
    assert checkpoints.latest(folder) == checkpoints.step_path(folder, 3)


@pytest.mark.parametrize("change, word", [
    (dict(batch_size=0), "batch_size"), (dict(epochs=0), "epochs"), (dict(learning_rate=-1.0), "learning_rate"),
    (dict(context_dropout=2.0), "context_dropout"), (dict(features=7), "features"), (dict(timesteps=0), "timesteps"),
])  # fmt: skip
def test_a_recipe_that_cannot_be_meant_leaves_no_folder(folder, sprites, change, word):
    with pytest.raises(LabError, match=word):
        run = start(folder, sprites, **change)
        assert run.total >= 0
        next(go(run))
    assert not folder.exists() or names(folder) == []


# The command, killed and interrupted


def train(folder, sprites, *more):
    """Start `python -m sprites_lab train` in a process that reacts to Ctrl-C as in a terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "sprites_lab", "train", "--out", folder, "--sprites", sprites, *more],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def wait_for_a_checkpoint(process, folder, after=0):
    until = time.monotonic() + 60
    while not [p for p in folder.glob("step-*.safetensors") if int(p.stem[5:]) > after]:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until, "no checkpoint within a minute"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_survives_kills_at_random_moments(folder, sprites):
    def train_on():
        list(go(start(folder, sprites, resume=checkpoints.latest(folder) is not None), save_every=1))

    chance, done, kills = np.random.default_rng(2), 0, 0
    while kills < 10 or not done:  # on a busy machine the first update may take longer than any of these moments
        pid = os.fork()
        if pid == 0:
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 2)
            try:
                train_on()
            finally:
                os._exit(0)
        time.sleep(0.1 + 0.4 * chance.random() + 0.1 * kills * (not done))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        newest = checkpoints.latest(folder) if folder.exists() else None
        updates = checkpoints.load(newest).facts["updates"] if newest else 0
        assert updates >= done
        done, kills = updates, kills + 1
    list(go(start(folder, sprites, resume=True)))
    assert checkpoints.load(folder / runs.FINAL).facts["updates"] == 12 and not list(folder.glob(".*"))


@pytest.mark.slow
def test_the_command_survives_a_kill_and_saves_at_ctrl_c(folder, sprites):
    process = train(folder, sprites, *SHORT, "--epochs", "1000", "--save-every", "5")
    wait_for_a_checkpoint(process, folder)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = checkpoints.load(checkpoints.latest(folder)).facts["updates"]
    (folder / f".step-00000099.safetensors.{process.pid}-0123abcd.tmp").write_text("half a file")

    process = train(folder, sprites, "--save-every", "7", "--resume")
    wait_for_a_checkpoint(process, folder, done)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors and "Exception ignored" not in errors, errors
    last = checkpoints.load(checkpoints.latest(folder)).facts["updates"]
    assert f"stopped after update {last};" in errors and "--resume" in errors and last > done
    assert not list(folder.glob(".*"))


def test_the_improved_recipe_builds_another_network_and_pulls_its_levers(tmp_path, sprites, monkeypatch):
    given = {}
    real = recipes.train
    monkeypatch.setattr(recipes, "train", lambda *rest, **more: given.update(more) or real(*rest, **more))
    improved = start(tmp_path / "b", sprites, recipe="improved")
    assert improved.state.model.settings["velocity"] and isinstance(improved.state.optimizer, Muon) and next(go(improved)).updates == 1
    levers = improved_recipe()
    assert (given["loss"], given["draw_t"], given["rate_factor"]) == (levers.loss, levers.draw_t, levers.rate_factor)
    course = start(tmp_path / "a", sprites)
    assert "velocity" not in course.state.model.settings and type(course.state.optimizer) is torch.optim.Adam and next(go(course)).updates == 1
    assert (given["loss"], given["draw_t"], given["rate_factor"]) == (noise_loss, uniform_t, linear_fall)


def test_a_recipe_is_kept_and_an_unknown_one_refused(tmp_path, sprites):
    list(go(start(tmp_path / "b", sprites, recipe="improved", epochs=1)))
    with pytest.raises(LabError, match="no recipe 'best'; there are: course, improved"):
        start(tmp_path / "c", sprites, recipe="best")
    assert checkpoints.load(tmp_path / "b" / runs.FINAL).facts["recipe"]["recipe"] == "improved"


def test_the_improved_recipe_cannot_begin_with_a_network_of_the_course(tmp_path, sprites):
    write_weights(tmp_path / "w.safetensors", network())
    with pytest.raises(LabError, match="another kind of network than the recipe improved trains"):
        start(tmp_path / "run", sprites, recipe="improved", start=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("lost", ["recipe", "sprites_sha256", "updates", "optimizer", "average"])
def test_a_checkpoint_without_a_part_is_refused_with_a_sentence(folder, sprites, lost):
    run = start(folder, sprites)
    facts = {name: value for name, value in runs.facts_of(run, kind="run").items() if name != lost}
    groups = {name: tensors for name, tensors in run.state.tensors().items() if name != lost}
    groups.setdefault("optimizer", {} if lost == "optimizer" else {"0/step": torch.zeros(())})
    checkpoints.save(checkpoints.step_path(folder, 1), groups, run.state.model, run.schedule, facts)
    with pytest.raises(LabError, match="not a run that can go on"):
        start(folder, sprites, resume=True)


# In a notebook

HERE = dict(epochs=4, features=8, batch_size=4, device="cpu")


@pytest.fixture
def interrupted_at(monkeypatch):
    """Let Ctrl-C come in the middle of some updates, even where the tests run in the background with Ctrl-C switched off."""
    before, real, moments = signal.signal(signal.SIGINT, signal.default_int_handler), recipes.train, set()

    def watched(state, *given, **more):
        def loss(*batch):
            if state.updates + 1 in moments:
                signal.raise_signal(signal.SIGINT)
            return more_loss(*batch)

        more_loss = more["loss"]
        yield from real(state, *given, **more | dict(loss=loss))

    monkeypatch.setattr(recipes, "train", watched)
    yield moments
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handler was not put back"
    signal.signal(signal.SIGINT, before)


def test_training_in_a_notebook_stops_at_ctrl_c_with_its_history_and_goes_on(tmp_path, folder, sprites, interrupted_at):
    whole = runs.train_here(tmp_path / "straight", sprites, **HERE)
    assert [p.updates for p in whole] == list(range(1, 13)) and whole == list(go(start(tmp_path / "plain", sprites, average_decay=0.999, precision="auto")))
    interrupted_at |= {5, 9}
    for stop in (5, 9):
        with pytest.warns(UserWarning, match=f"stopped after update {stop} of 12, all saved; run the cell again") as seen:
            assert runs.train_here(folder, sprites, **HERE) == whole[:stop]
        assert Path(seen[0].filename) == Path(__file__) and checkpoints.latest(folder) == checkpoints.step_path(folder, stop)
        interrupted_at.remove(stop)
    assert runs.train_here(folder, sprites, **HERE) == whole == runs.train_here(folder, sprites, **HERE)
    for name in ("step-00000012.safetensors", runs.FINAL):
        one, other = (checkpoints.load(place / name) for place in (tmp_path / "straight", folder))
        assert same_tensors(one.groups, other.groups) and one.facts == other.facts
    assert ".lock" not in names(folder)


def test_ctrl_c_in_the_last_update_ends_a_finished_run_without_a_warning(folder, sprites, interrupted_at, recwarn):
    interrupted_at.add(3)
    assert len(runs.train_here(folder, sprites, **HERE | dict(epochs=1))) == 3 and not recwarn
    assert (folder / runs.FINAL).exists()


def test_a_notebook_says_why_it_does_not_go_on(begun, sprites, tmp_path):
    with pytest.raises(LabError, match="trained with epochs=4, not 5.*another folder"):
        runs.train_here(begun, sprites, **HERE | dict(epochs=5))
    with pytest.raises(LabError, match="trained on other sprites"):
        runs.train_here(begun, write_sprites(tmp_path / "other.npz", seed=1), **HERE)
    for path in checkpoints.steps_in(begun):
        path.write_bytes(b"damaged")
    with pytest.raises(LabError, match="no readable checkpoint"):
        runs.train_here(begun, sprites, **HERE)


def test_a_run_that_began_before_files_had_a_history_tells_of_the_updates_since(begun, sprites):
    run = start(begun, sprites, resume=True)
    groups = run.state.tensors()
    checkpoints.save(checkpoints.step_path(begun, 2), groups, run.state.model, run.schedule, runs.facts_of(run, kind="run"))
    again = start(begun, sprites, resume=True)
    assert again.history == [] and list(go(again)) == again.history and [p.updates for p in again.history] == list(range(3, 13))


def test_the_history_is_what_was_reported_for_every_recipe(folder, sprites):
    run = start(folder, sprites, recipe="improved")
    assert list(go(run)) == run.history


# Two runs, one folder


def test_a_folder_in_use_is_refused_until_the_run_ends(folder, sprites):
    steps = go(start(folder, sprites), 1)
    next(steps)
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    with pytest.raises(LabError, match="in use by a run of this very process"):
        next(go(start(folder, sprites, resume=True)))
    assert before == {name: (folder / name).read_bytes() for name in names(folder)}
    steps.close()
    assert ".lock" not in names(folder) and next(go(start(folder, sprites, resume=True))).updates == 2


@pytest.fixture
def other_process(folder, sprites):
    """A process that trains in the folder and then waits; its number."""
    arrived, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            steps = go(start(folder, sprites), 1)
            next(steps)
            os.write(told, b"!")
            time.sleep(60)
        finally:
            os._exit(1)
    assert os.read(arrived, 1) == b"!"
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_another_process_in_the_folder_is_named_and_its_death_frees_the_folder(folder, sprites, other_process):
    with pytest.raises(LabError, match=f"in use by process {other_process}: wait.*--out"):
        next(go(start(folder, sprites, resume=True)))
    with pytest.raises(LabError, match=f"in use by process {other_process}"):
        runs.train_here(folder, sprites, **HERE)
    os.kill(other_process, signal.SIGSTOP)  # a process that hangs keeps its folder
    with pytest.raises(LabError, match="in use"):
        next(go(start(folder, sprites, resume=True)))


def test_a_killed_run_frees_its_folder(folder, sprites):
    if (pid := os.fork()) == 0:
        try:
            for _ in go(start(folder, sprites), 1):
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    assert (folder / ".lock").read_text() == str(pid)
    assert len(list(go(start(folder, sprites, resume=True)))) == 11 and ".lock" not in names(folder)


def test_only_the_first_worker_of_a_team_takes_the_folder(folder, sprites, monkeypatch):
    run = start(folder, sprites)
    folder.mkdir()
    with locks.alone_in(folder):
        monkeypatch.setattr(runs, "saving", lambda *given: iter([]))
        assert list(go(run._replace(team=run.team._replace(rank=1)))) == []
        with pytest.raises(LabError, match="in use"):
            list(go(run))
