"""The classifier: what it learns, what it must not depend on, its file."""

from functools import partial

import numpy as np
import pytest
import small
import torch
from small import NAMES, generator, same_tensors

from sprites_lab import LabError, checkpoints
from sprites_lab.classifier import Judge, classes_of_kinds, load_classifier, move, new_classifier, save_classifier, train_classifier, two_tasks
from sprites_lab.data import SpriteSet, load_sprites
from sprites_lab.lab import CLASSIFIER

refusal = partial(small.refusal, load_classifier)


def easy_set(count=60, size=16):
    """Three kinds that anybody can tell: a bar, a block or a frame somewhere on white, in chance colours."""
    rng = np.random.default_rng(0)
    sprites, kinds = np.full((count, size, size, 3), 255, np.uint8), np.arange(count) % 3
    for sprite, kind in zip(sprites, kinds, strict=True):
        y, x = rng.integers(2, 5, 2)
        part = (slice(y, y + 9), slice(x, x + 2)) if kind == 0 else (slice(y, y + 9), slice(x, x + 9))
        sprite[part] = rng.integers(0, 160, 3)
        if kind == 2:
            sprite[y + 2 : y + 7, x + 2 : x + 7] = 255
    return SpriteSet(sprites, np.array([0, 2, 2], np.uint8)[kinds], kinds.astype(np.uint16), np.arange(count) >= 45, ("bar", "block", "frame"))


@pytest.fixture(scope="module")
def trained():
    whole, model = easy_set(), new_classifier(3)
    losses = [loss for _, loss in train_classifier(model, whole.train, 40)]
    return whole, model, losses


@pytest.fixture
def path(tmp_path, trained):
    save_classifier(tmp_path / "c.safetensors", trained[1], trained[0], {"epochs": 40})
    return tmp_path / "c.safetensors"


def test_it_learns_to_name_what_it_has_not_seen(trained, path):
    whole, _, losses = trained
    judge, test = load_classifier(path), whole.test
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert (judge.kind_probabilities(test.pictures()).argmax(1).numpy() == test.kinds).mean() > 0.9
    assert (judge.class_probabilities(test.pictures()).argmax(1).numpy() == test.labels).mean() > 0.9


def test_a_class_is_the_sum_of_its_kinds(trained, path):
    judge, pictures = load_classifier(path), trained[0].pictures()[:7]
    kinds, classes = judge.kind_probabilities(pictures, batch=3), judge.class_probabilities(pictures)
    assert judge.class_of.tolist() == [0, 2, 2] and judge.class_names == NAMES and judge.kind_names == ("bar", "block", "frame")
    assert torch.allclose(classes[:, 0], kinds[:, 0]) and torch.allclose(classes[:, 2], kinds[:, 1] + kinds[:, 2])
    assert (classes[:, [1, 3, 4]] == 0).all() and torch.allclose(kinds.sum(1), torch.ones(7))


def test_features_know_colour_and_place(trained, path):
    judge = load_classifier(path)
    features = judge.features(trained[0].pictures(), batch=11)
    assert features.shape == (60, 128) and features.dtype == torch.float32
    coarse = judge.model.coarse(features)
    wanted = torch.nn.functional.avg_pool2d(trained[0].pictures(), 4).flatten(1)
    assert (coarse - wanted).square().mean() < 0.5 * wanted.var(0).mean()


def test_training_follows_from_the_seed_and_leaves_the_global_chance_alone():
    whole, before, models = easy_set(12), torch.get_rng_state(), []
    for seed in (0, 0, 1):
        models.append(new_classifier(3, seed=seed))
        assert [u for u, _ in train_classifier(models[-1], whole, 2, seed)] == [1, 2]
        assert not models[-1].training
    assert same_tensors(models[0].state_dict(), models[1].state_dict())
    assert not same_tensors(models[0].state_dict(), models[2].state_dict())
    assert torch.equal(before, torch.get_rng_state())


def test_moving_shifts_by_at_most_a_pixel_and_mirrors():
    picture = torch.ones(1, 3, 8, 8)
    picture[0, :, 2, 3] = -1
    picture[0, 0, 2, 4] = 0
    moved, places = move(picture.expand(600, -1, -1, -1), generator()), set()
    assert moved.shape == (600, 3, 8, 8) and ((moved - 1).abs().sum((1, 2, 3)) == (picture - 1).abs().sum()).all()
    for one in moved:
        (y, x), (_, beside) = (one[1] == -1).nonzero()[0].tolist(), (one[0] == 0).nonzero()[0].tolist()
        places.add((y, x, beside - x))
    assert places == {(2 + dy, 3 + dx, 1) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} | {(2 + dy, 4 + dx, -1) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}


def test_white_comes_in_where_a_picture_moves_away():
    moved = move(-torch.ones(50, 3, 4, 4), generator())
    assert set(moved.unique().tolist()) == {-1, 1} and (moved[:, :, 1:3, 1:3] == -1).all()


def test_the_loss_is_that_of_both_tasks():
    class Fixed(torch.nn.Module):
        def forward(self, seen):
            self.seen = seen
            return torch.zeros(len(seen), 4), torch.zeros(len(seen), 48)

    model = Fixed()
    loss = two_tasks(model, torch.full((5, 3, 16, 16), -1.0), torch.zeros(5, dtype=torch.long), generator(), None)
    clean = move(torch.full((5, 3, 16, 16), -1.0), generator())
    assert loss.item() == pytest.approx(np.log(4) + torch.nn.functional.avg_pool2d(clean, 4).square().mean().item(), rel=1e-5)
    noise = (model.seen - clean).flatten(1).std(1)
    assert (noise < 0.11).all() and noise.std() > 0.01


@pytest.mark.parametrize("change, words", [
    (dict(epochs=0), "epochs is 0"), (dict(epochs=1.5), "epochs is 1.5"), (dict(kinds=4), "3 kinds cannot train a classifier of 4"),
    (dict(rows=slice(0, 0)), "0 sprites"), (dict(size=8), "8x8 pixels"),
])  # fmt: skip
def test_a_task_that_cannot_be_meant_is_refused(change, words):
    whole = easy_set(12, change.get("size", 16))[change.get("rows", slice(None))]
    with pytest.raises(LabError, match=words):
        next(train_classifier(new_classifier(change.get("kinds", 3)), whole, change.get("epochs", 1)))


def test_a_kind_that_no_sprite_shows_cannot_be_saved(tmp_path, trained):
    with pytest.raises(LabError, match="no sprite shows the kind frame"):
        save_classifier(tmp_path / "c.safetensors", trained[1], trained[0][trained[0].kinds < 2], {})
    assert not list(tmp_path.iterdir())


def test_a_kind_in_two_classes_has_none():
    whole = easy_set(12)
    whole.labels[0] = 4
    with pytest.raises(LabError, match="sprites of several classes show the kind bar"):
        classes_of_kinds(whole)


def test_a_missing_classifier_is_missed_by_its_own_name(tmp_path):
    refusal(tmp_path / "none.safetensors", "no classifier", "train-classifier")


def test_the_file_keeps_what_was_learned(trained, path):
    judge = load_classifier(path)
    assert isinstance(judge, Judge) and judge.facts["epochs"] == 40 and not judge.model.training
    for name, tensor in trained[1].state_dict().items():
        assert torch.allclose(judge.model.state_dict()[name].float(), tensor.float(), rtol=1e-3, atol=1e-4), name


def test_a_damaged_file_is_refused_wherever_the_damage_is(path, tmp_path):
    data, rng, bad = path.read_bytes(), np.random.default_rng(1), tmp_path / "bad.safetensors"
    for place in [*rng.integers(0, 3000, 40), *rng.integers(0, len(data), 40)]:
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(0, 8))
        bad.write_bytes(changed)
        with pytest.raises(LabError, match="bad.safetensors"):
            load_classifier(bad)
    for length in rng.integers(0, len(data), 20):
        bad.write_bytes(data[:length])
        with pytest.raises(LabError, match="bad.safetensors"):
            load_classifier(bad)


@pytest.mark.parametrize("change, words", [
    (dict(classifier={"num_kinds": 0, "num_features": 128}), "a size"), (dict(classifier={"num_kinds": 10**9, "num_features": 128}), "a size"),
    (dict(classifier=None), "holds no classifier"), (dict(kinds=["a"]), "one name"), (dict(class_of=[0, 1]), "one name"),
    (dict(class_of=[0, 1, 9]), "no class"), (dict(class_of=[0, -1, 2]), "no class"), (dict(class_of="abc"), "holds no classifier"),
])  # fmt: skip
def test_a_header_that_does_not_fit_is_refused(trained, path, change, words):
    facts = load_classifier(path).facts | change
    tensors = {f"model/{name}": tensor.contiguous() for name, tensor in trained[1].state_dict().items()}
    checkpoints.save_tensors(path, tensors, {name: value for name, value in facts.items() if name != "format"})
    refusal(path, words)


def test_a_network_that_predicts_noise_is_no_classifier(tmp_path):
    refusal(small.write_weights(tmp_path / "w.safetensors"), "holds no classifier")


def test_the_shipped_classifier_knows_the_held_out_sprites():
    judge, test = load_classifier(CLASSIFIER), load_sprites().test
    assert judge.kind_names == load_sprites().kind_names
    guesses = judge.class_probabilities(test.pictures()).argmax(1).numpy()
    for label, name in enumerate(NAMES):
        assert (guesses == label)[test.labels == label].mean() > 0.97, name
    assert (judge.kind_probabilities(test.pictures()).argmax(1).numpy() == test.kinds).mean() > 0.93
