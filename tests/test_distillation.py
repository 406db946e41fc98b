"""Students: lessons that lie on the teacher's walk, targets that are exact, trainings that go on, files that say how they walk."""

import checks
import pytest
import torch
from oracle import close, perfect
from small import NAMES, Pixelwise, generator, network, pictures, same_tensors, snapshot, write_sprites, write_weights

from sprites_lab import LabError, TrainingState, checkpoints, ddim, distillation, final, lab, linear_schedule, students
from sprites_lab.__main__ import main
from sprites_lab.distillation import Lessons, distil, draw_contexts, teach
from sprites_lab.spacing import quadratic
from sprites_lab.walks import Walk

TIMES = [500, 281, 125, 31, 0]


def lessons(count=20, schedule=None):
    """Walks of a perfect network for one Gaussian: what a student can learn exactly."""
    schedule = schedule or linear_schedule()
    x_T = torch.randn(count, 3, 16, 16, generator=generator(), dtype=torch.float64)
    states = teach(ddim(perfect(0.5, 0.3), schedule, x_T, 12, spacing=quadratic), x_T, 3)
    return Lessons(TIMES, states, torch.eye(5)[torch.arange(count) % 5])


@pytest.mark.oracle
@pytest.mark.parametrize("check", [checks.check_right_guess, checks.check_lessons], ids=lambda check: check.__name__)
def test_exactly(check):
    check()


def test_fewer_steps_pass_fewer_states_of_the_same_walks():
    found = lessons(3)
    for steps, times in ((4, TIMES), (2, [500, 125, 0]), (1, [500, 0])):
        thin = found.thinned(steps)
        assert thin.times == times == quadratic(linear_schedule(), steps)
        assert torch.equal(thin.states, found.states[:, [TIMES.index(t) for t in times]])
    for steps in (0, 3, 8, -1):
        with pytest.raises(LabError, match="cannot be cut into"):
            found.thinned(steps)


def test_students_are_asked_for_classes_mixtures_and_nothing():
    contexts = draw_contexts(20_000, 5, generator())
    nothing, pure = (contexts == 0).all(1), (contexts == 1).any(1)
    assert abs(nothing.float().mean() - 0.1) < 0.01 and abs(pure.float().mean() - 0.82) < 0.02  # a mixture of one class twice is pure
    close(contexts.sum(1)[~nothing].numpy(), 1.0, 1e-6)
    assert (contexts[~nothing & ~pure] > 0).sum(1).eq(2).all() and contexts[pure].mean(0).std() < 0.01


def run(state, found, until=None, **options):
    """Some batches of a student; its losses."""
    options = dict(epochs=2, batch_size=5, learning_rate=0.03) | options
    losses = []
    for progress in distil(state, linear_schedule(), found, **options):
        losses.append(progress.loss)
        if progress.updates == until:
            break
    return losses


def single(found):
    return Lessons(found.times, found.states.float(), found.contexts)


def test_a_student_learns_to_walk_as_its_teacher_and_keeps_its_batch_norm():
    found, state = single(lessons(60)), TrainingState(Pixelwise().eval())
    before = snapshot({name: buffer for name, buffer in state.model.named_buffers()})

    def distance():
        model = state.average
        ends = final(ddim(lambda x, t: model(x, t, found.contexts[:len(x)]), linear_schedule(), found.states[:, 0], 4, spacing=quadratic))
        return (ends - found.states[:, -1]).abs().mean().item()

    far, losses = distance(), run(state, found, epochs=30, average_decay=0.9)
    assert losses[-1] < losses[0] / 4 and distance() < far / 4
    assert same_tensors(before, dict(state.model.named_buffers())) and not state.model.training


def test_a_student_goes_on_from_where_it_came_itself(monkeypatch):
    found, state, seen = single(lessons(5)), TrainingState(Pixelwise().eval()), []
    real = state.model.forward
    monkeypatch.setattr(state.model, "forward", lambda x_t, t, context: seen.append((x_t.detach().clone(), t.clone(), x_t.requires_grad)) or real(x_t, t, context))
    run(state, found, until=1)
    assert [t.tolist() for _, t, _ in seen] == [[t] * 5 for t in TIMES[:-1]] and not any(grad for *_, grad in seen)
    order = torch.randperm(5, generator=distillation.seeded(0, 0, 0))
    assert torch.equal(seen[0][0], found.states[order, 0])
    assert not any(torch.allclose(x_t, found.states[order, number], atol=1e-3) for number, (x_t, *_) in enumerate(seen[1:], start=1))


@pytest.mark.parametrize("split", [1, 4, 7])
def test_a_student_that_was_stopped_goes_on_bit_for_bit(split):
    found, straight, first = single(lessons()), TrainingState(Pixelwise().eval()), TrainingState(Pixelwise().eval())
    losses = run(straight, found)
    begun = run(first, found, until=split)
    second = TrainingState(Pixelwise(seed=3).eval())
    second.load(snapshot(first.tensors()), first.updates)
    assert begun + run(second, found) == losses and len(losses) == 8
    assert same_tensors(second.tensors(), straight.tensors())


def test_a_loss_that_is_no_number_stops_before_the_weights():
    found, state = single(lessons(5)), TrainingState(Pixelwise().eval())
    found.states[0, -1] = torch.nan
    before = snapshot(state.tensors()["model"])
    with pytest.raises(LabError, match="the loss became nan at update 1"):
        run(state, Lessons([500, 0], found.states[:, [0, -1]], found.contexts))
    assert same_tensors(before, state.tensors()["model"])


@pytest.fixture
def school(tmp_path, monkeypatch):
    """A folder with a small teacher and its sprites; lessons come in files of 8."""
    for name, value in (("PART", 8), ("BATCH", 4)):
        monkeypatch.setattr(students, name, value)
    monkeypatch.setitem(students.LEAST, "count", 8)
    sprites = write_sprites(tmp_path / "s.npz")
    write_weights(tmp_path / "teacher.safetensors", network(velocity=True).follow(*scales()), sprites_sha256=checkpoints.sha256_of(sprites))
    return tmp_path


def scales():
    schedule = linear_schedule()
    return schedule.signal_scale, schedule.noise_scale


def distill(school, out, *more):
    return main(["distill", "--teacher", f"{school}/teacher.safetensors", "--sprites", f"{school}/s.npz", "--lessons", f"{school}/lessons", "--out", f"{school}/{out}",
                 "--device", "cpu", "--save-every", "1", *more])  # fmt: skip


SMALL = ["--count", "12", "--epochs", "2", "--batch-size", "5"]


def test_the_command_makes_a_network_that_says_how_it_walks(school, capsys):
    assert distill(school, "four", *SMALL) == 0
    made = lab.load_weights(school / "four/student-4.safetensors")
    assert made.facts["walk"] == dict(sampler="ddim", steps=4, spacing="quadratic", start="fitted") and made.facts["classes"] == list(NAMES)
    assert Walk().checked(500, made.facts) == Walk("ddim", 4, 0.0, 1.0, "quadratic", "fitted")
    teacher = lab.load_weights(school / "teacher.safetensors")
    assert not same_tensors(dict(made.model.named_parameters()), dict(teacher.model.named_parameters()))
    asked = ["sample", "--count", "3", "--sprites", f"{school}/s.npz", "--device", "cpu", "--weights", f"{school}/four/student-4.safetensors", "--out"]
    assert main([*asked, f"{school}/own.npz"]) == main([*asked, f"{school}/said.npz", "--sampler", "ddim", "--steps", "4", "--spacing", "quadratic", "--start", "fitted"]) == 0
    assert (school / "own.npz").read_bytes() == (school / "said.npz").read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in (school / "lessons").iterdir()}
    assert len(stamps) == 2
    assert distill(school, "two", *SMALL, "--steps", "2", "--start", f"{school}/four/student-4.safetensors") == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in (school / "lessons").iterdir()}  # the same walks again
    assert lab.load_weights(school / "two/student-2.safetensors").facts["walk"]["steps"] == 2


def test_a_stopped_student_ends_as_a_straight_one(school, monkeypatch):
    assert distill(school, "straight", *SMALL) == 0
    real, calls = distillation.follow, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(distillation, "follow", interrupted)
    assert distill(school, "stopped", *SMALL) == 130
    monkeypatch.setattr(distillation, "follow", real)
    assert checkpoints.load(checkpoints.latest(school / "stopped")).facts["updates"] == 2
    assert distill(school, "stopped", "--resume") == 0
    stopped, straight = (checkpoints.load(school / folder / "student-4.safetensors") for folder in ("stopped", "straight"))
    assert same_tensors(stopped.groups, straight.groups) and stopped.facts == straight.facts


@pytest.mark.parametrize(("more", "words"), [
    (["--steps", "3"], "--steps is 3, but a student has 1, 2, 4 steps"), (["--epochs", "0"], "epochs is 0"), (["--count", "4"], "count is 4"),
    (["--learning-rate", "nan"], "learning_rate must be above 0"), (["--resume"], "holds no readable checkpoint"), (["--save-every", "0"], "--save-every is 0"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused_before_any_work(school, capsys, more, words):
    assert distill(school, "out", *more) == 2
    assert words in capsys.readouterr().err and not (school / "lessons").exists()


def test_lessons_of_another_teacher_and_other_options_are_refused(school, capsys):
    assert distill(school, "one", *SMALL) == 0
    assert distill(school, "one", *SMALL) == 2 and "already holds a student" in capsys.readouterr().err
    assert distill(school, "one", "--resume", "--epochs", "9") == 2 and "with other options" in capsys.readouterr().err
    write_weights(school / "teacher.safetensors", network(1, velocity=True).follow(*scales()), sprites_sha256=checkpoints.sha256_of(school / "s.npz"))
    assert distill(school, "two", *SMALL) == 2 and "holds no lessons of this teacher" in capsys.readouterr().err
