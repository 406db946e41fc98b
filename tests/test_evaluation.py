"""The command `evaluate`: every measure of a network's sprites, beside yardsticks that must come out as they are called."""

import hashlib
import json

import numpy as np
import pytest
import torch
from small import NAMES, generator, network, write_weights

from sprites_lab import LabError, commands, evaluation, extractors, lab, metrics
from sprites_lab.__main__ import main
from sprites_lab.checkpoints import load
from sprites_lab.classifier import load_classifier, new_classifier, save_classifier
from sprites_lab.data import SpriteSet, context_of, load_sprites, to_bytes, to_pictures
from sprites_lab.drawing import artist
from sprites_lab.metrics import frechet
from sprites_lab.neighbours import nearest
from sprites_lab.predictors import conditioned
from sprites_lab.samplers import ddim, final
from sprites_lab.walks import Walk

COUNT = 30


def blocks(count, seed):
    """Sprites of five kinds that differ in place and colour; kind k has class (2, 0, 1, 3, 4)[k]."""
    rng = np.random.default_rng(seed)
    sprites, kinds = np.full((count, 16, 16, 3), 255, np.uint8), np.arange(count) % 5
    for sprite, kind in zip(sprites, kinds, strict=True):
        for _ in range(3):
            y, x = rng.integers(1, 8, 2)
            sprite[y : y + 3 + kind, x : x + 7 - kind] = rng.integers(0, 200, 3)
    return SpriteSet(sprites, np.array([2, 0, 1, 3, 4], np.uint8)[kinds], kinds.astype(np.uint16), np.arange(count) % 4 == 3, tuple("abcde"))


def fresh(count, seed):
    return blocks(count, 100 + seed)


def arrays(sprites):
    """The arrays of a sprite file."""
    return dict(sprites=sprites.sprites, labels=sprites.labels, kinds=sprites.kinds, held_out=sprites.held_out, kind_names=np.array(sprites.kind_names))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module", autouse=True)
def few_features():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractors, "NUM_FEATURES", 4)
        patch.setattr(lab, "fast_dtype", lambda device: None)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small weights, a judge with eight features, and sprites of which every fourth is held out."""
    folder, shown = tmp_path_factory.mktemp("evaluation"), blocks(160, 3)
    judge = new_classifier(5, 8, seed=1)
    judge.train()(torch.randn(50, 3, 16, 16, generator=generator()))  # statistics of its norms
    write_weights(folder / "w.safetensors", network(timesteps=12))
    np.savez(folder / "s.npz", **arrays(shown))
    save_classifier(folder / "c.safetensors", judge.eval(), shown, {"sprites_sha256": sha256(folder / "s.npz")})
    return folder


def asked(**options):
    """Options of `evaluate` as arguments of open_task."""
    return {name: value for name, value in options.items() if name not in Walk._fields} | {"walk": Walk(**{name: options[name] for name in Walk._fields if name in options})}


@pytest.fixture(scope="module")
def ref(files):
    return evaluation.reference(files / "c.safetensors", files / "s.npz")


@pytest.fixture(scope="module")
def found(files, ref):
    return evaluation.evaluate(evaluation.open_task(files / "w.safetensors", COUNT, 2, Walk("ddim", 3)), ref, fresh)


def test_the_sprites_are_those_of_the_walk_by_hand(files, monkeypatch):
    monkeypatch.setattr(evaluation.sampling, "BATCH", 4)
    weights = load(files / "w.safetensors")
    task = evaluation.open_task(files / "w.safetensors", COUNT, 1, Walk("ddim", 3))
    (sprites, labels), free = evaluation.make(task, 2), evaluation.make_unasked(task, 2)
    for number, context in enumerate([*(context_of({name: 1}) for name in NAMES), None]):
        by_hand = to_bytes(final(ddim(conditioned(weights.model, context), weights.schedule, lab.starting_noise(6, 2 * 6 + number), 3)))
        made = free if context is None else sprites[labels == number]
        assert sorted(s.tobytes() for s in made) == sorted(s.tobytes() for s in by_hand), number
    assert labels.tolist() != sorted(labels)


def test_the_reference_keeps_the_splits_apart(ref):
    whole = blocks(160, 3)
    assert np.array_equal(ref.train.sprites, whole.train.sprites)
    assert {s.tobytes() for s in ref.test.sprites} == {s.tobytes() for s in whole.test.sprites} and (ref.test.sprites != whole.test.sprites).any()
    assert torch.allclose(ref.test_features, ref.judge.features(ref.test.pictures()))
    assert np.array_equal(ref.test_distance, nearest(ref.test.sprites, whole.train.sprites)[0])
    assert {name: features.shape for name, features in ref.train_features.items()} == {"classifier": (120, 8), "random": (120, 4), "pixels": (120, 4)}


def test_measures_are_of_the_right_sets(ref):
    made, features = fresh(COUNT, 1), ref.judge.features(fresh(COUNT, 1).pictures())
    measured = evaluation.measure((made.sprites, made.labels), ref)
    assert set(measured) == set(evaluation.MEANING)
    assert measured["fd_train"] == pytest.approx(frechet(features, ref.train_features["classifier"]))
    assert measured["fd_held_out"] == pytest.approx(frechet(features, ref.test_features))
    for name in ("random", "pixels"):
        assert measured[f"fd_{name}"] == pytest.approx(frechet(ref.extract[name](made.pictures()), ref.train_features[name]))
    near = metrics.neighbourhoods(features, ref.test_features)
    copied = metrics.copies(made.sprites, made.labels, ref.train.sprites, ref.test_distance, ref.test.labels)
    assert {**near._asdict(), **copied._asdict()}.items() <= measured.items()
    ours, theirs = metrics.palette(made.sprites), metrics.palette(ref.test.sprites)
    assert measured["colours"] == metrics.wasserstein(ours.colours, theirs.colours) and measured["crispness"] == metrics.wasserstein(ours.crispness, theirs.crispness)
    assert measured["palette"] == metrics.jensen_shannon(ours.histogram, theirs.histogram)
    guesses = ref.judge.class_probabilities(made.pictures()).argmax(1).numpy()
    assert measured["class_acc"] == pytest.approx((guesses == made.labels).mean())


def test_the_yardsticks_come_out_as_they_are_called(found):
    rows = {name: {key: np.mean([row[key] for row in rows]) for key in evaluation.MEANING} for name, rows in found["rows"].items()}
    names = ("new sprites", "memoriser", "blurred", "noised", "noise", "labels shuffled")
    new, copied, blurred, noised, noise, shuffled = (rows[name] for name in names)
    assert list(rows)[1:] == list(names)
    assert copied["copy_rate"] == 1 and copied["authentic"] == 0 and copied["c_t"] < -2 < new["c_t"]
    assert new["copy_rate"] < 0.2 and new["authentic"] > 0.2
    assert copied["fd_train"] < new["fd_train"]
    for key in ("crispness", "palette", "colours"):
        assert new[key] < blurred[key] and new[key] < noised[key], key
    for key in ("fd_pixels", "sw_pixels", "palette"):
        assert new[key] < noised[key] < noise[key], key
    assert max(new["fd_random"], noised["fd_random"]) < noise["fd_random"]
    assert all(shuffled[key] == new[key] for key in ("fd_train", "recall", "palette"))


def test_the_extractors_answer_alike_in_any_batch_and_know_no_labels(ref):
    pictures = blocks(40, 5).pictures()
    for name, extract in ref.extract.items():
        assert torch.allclose(torch.cat([extract(pictures[:7]), extract(pictures[7:])]), extract(pictures), atol=1e-4), name
    assert torch.equal(extractors.random_features()(pictures), extractors.random_features()(pictures))
    assert not torch.equal(extractors.random_features(1)(pictures), extractors.random_features()(pictures))
    with pytest.raises(LabError, match="4 pictures cannot give 4 principal components"):
        extractors.principal_components(pictures[:4])


@pytest.mark.oracle
def test_principal_components_are_the_directions_of_the_svd():
    pictures = blocks(60, 6).pictures()
    flat = pictures.flatten(1).double()
    _, values, _ = torch.linalg.svd(flat - flat.mean(0))
    variances = extractors.principal_components(pictures)(pictures).var(0)
    assert torch.allclose(variances.flip(0).double(), values[:4].square() / 59, rtol=1e-4)


def test_the_confusion_counts_all_sprites_and_the_table_shows_them(found, ref):
    assert np.sum(found["confusion"], 1).tolist() == [2 * COUNT // 5] * 5 and np.sum(found["held_out_confusion"]) == 40
    assert sum(found["unasked"]) == pytest.approx(1) and found["count"] == COUNT and found["seeds"] == 2
    text = evaluation.table(found)
    assert all(title in text for title, _ in evaluation.MEANING.values()) and "w.safetensors, ddim 3" in text and "30 sprites, 2 seeds" in text
    assert f"{evaluation.accuracies(found['confusion'])[-1]:.1%}" in text.splitlines()[-1]
    assert len(evaluation.meanings().splitlines()) == len(evaluation.MEANING)


def test_accuracies_are_shares_of_the_diagonal_and_their_mean():
    assert evaluation.accuracies([[3, 1], [0, 4]]) == [0.75, 1.0, 0.875]
    assert evaluation.accuracies([[0, 0], [2, 2]]) == [0.0, 0.5, 0.25]


def test_numbers_are_shown_with_their_spread():
    assert evaluation.shown([0.12345]) == "0.123" and evaluation.shown([1.0, 3.0]) == "2 ± 1"


@pytest.mark.parametrize("change, words", [
    (dict(count=17), "from 18 .8 features. to 120"), (dict(count=121), "--count is 121"), (dict(count=0), "--count is 0"), (dict(seeds=0), "--seeds is 0"), (dict(scale=float("nan")), "scale is nan"),
    (dict(steps=13), "from 1 to 12"), (dict(sampler="ddpm"), "all 12 steps"),
])  # fmt: skip
def test_a_task_that_cannot_be_meant_is_refused(files, ref, change, words):
    with pytest.raises(LabError, match=words):
        evaluation.evaluate(evaluation.open_task(files / "w.safetensors", **asked(**dict(count=COUNT, seeds=1, sampler="ddim", steps=3) | change)), ref, fresh)


def test_what_cannot_be_compared_is_refused(files, ref, tmp_path):
    other = write_weights(tmp_path / "w.safetensors", network(timesteps=12), classes=[*"vwxyz"])
    with pytest.raises(LabError, match="other classes than the classifier"):
        evaluation.evaluate(evaluation.open_task(other, COUNT, 1, Walk("ddim", 2)), ref, fresh)
    for more in (dict(network=network(timesteps=12, height=8), words="draws 8 pixels"), dict(network=network(timesteps=12), sha="other", words="trained on other sprites")):
        facts = {"sprites_sha256": more["sha"]} if "sha" in more else {}
        write_weights(tmp_path / "w.safetensors", more["network"], **facts)
        with pytest.raises(LabError, match=more["words"]):
            evaluation.evaluate(evaluation.open_task(tmp_path / "w.safetensors", COUNT, 1, Walk("ddim", 2)), ref, fresh)
    for change, words in ((dict(held_out=np.zeros(160, bool)), "no held-out sprites"), (dict(sprites=np.zeros((160, 8, 8, 3), np.uint8)), "8x8 pixels"), (dict(), "other sprites")):
        np.savez(tmp_path / "s.npz", **arrays(blocks(160, 4)) | change)
        judged = {} if words == "other sprites" else {"sprites_sha256": sha256(tmp_path / "s.npz")}
        save_classifier(tmp_path / "c.safetensors", new_classifier(5, 8), blocks(160, 3), judged)
        with pytest.raises(LabError, match=words):
            evaluation.reference(tmp_path / "c.safetensors", tmp_path / "s.npz")


def test_new_sprites_are_none_of_the_file_nor_their_mirror_images(ref):
    new = fresh(COUNT, 1)
    mixed = np.concatenate([ref.train.sprites[:5], ref.test.sprites[:5, :, ::-1], new.sprites])
    drawn = SpriteSet(mixed, np.zeros(len(mixed), np.uint8), np.zeros(len(mixed), np.uint16), np.zeros(len(mixed), bool), ("a",))
    assert np.array_equal(evaluation.unseen(drawn, ref, COUNT).sprites, new.sprites)
    with pytest.raises(LabError, match="only 30 of 40"):
        evaluation.unseen(drawn, ref, 31)


def test_a_walk_that_leaves_the_numbers_is_no_sprite():
    with pytest.raises(LabError, match="no finite numbers"):
        evaluation.finite(torch.tensor([[[[float("nan")]]]]))


@pytest.mark.parametrize("ours", [True, False])
def test_the_command_prints_the_table_and_writes_the_numbers(files, tmp_path, capsys, monkeypatch, ours):
    asked = []
    if ours:  # these sprites are none of the artist's, who can draw no new ones of them
        monkeypatch.setattr(commands, "can_draw", lambda sprites: True)
    monkeypatch.setattr(artist, "draw_set", lambda count, seed: asked.append((count, seed)) or arrays(fresh(count, seed)))
    paths = [f"--{name}={files / file}" for name, file in (("weights", "w.safetensors"), ("classifier", "c.safetensors"), ("sprites", "s.npz"))]
    assert main(["evaluate", *paths, "--count", "20", "--seeds", "1", "--sampler", "ddim", "--steps", "2", "--json", str(tmp_path / "e.json"), "--sheet", str(tmp_path / "e.png"), "--pairs", str(tmp_path / "p.png")]) == 0
    found = json.loads((tmp_path / "e.json").read_text())
    out = capsys.readouterr().out
    assert (tmp_path / "e.md").read_text() == evaluation.table(found) and (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")
    assert "of 20 made sprites" in out and (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert evaluation.table(found) in out and evaluation.meanings() in out and np.sum(found["confusion"]) == 20
    assert list(found["rows"])[1] == ("new sprites" if ours else "held-out sprites, repeated")
    assert asked == [(artist.LEAST, 1_000_003)] * ours  # never a seed that somebody draws a training set with
    assert found["sprites_sha256"] == sha256(files / "s.npz") and found["network_sha256"] == sha256(files / "w.safetensors")


def test_a_network_can_be_measured_without_the_yardsticks(files, ref, found):
    seen = []
    alone = evaluation.evaluate(evaluation.open_task(files / "w.safetensors", COUNT, 1, Walk("ddim", 3)), ref, fresh, lambda *sets: seen.append(sets), alone=True)
    title = alone["network"]
    assert list(alone["rows"]) == [title, "new sprites"]
    assert all(alone["rows"][name][0] == found["rows"][name][0] for name in alone["rows"])  # the same seed gives the same numbers
    (made, real), = seen
    assert len(made) == len(real) == COUNT and not {sprite.tobytes() for sprite in made} & {sprite.tobytes() for sprite in real}


def test_the_command_trains_a_classifier_that_evaluate_takes(files, tmp_path, capsys):
    out = tmp_path / "mine.safetensors"
    assert main(["train-classifier", "--out", str(out), "--sprites", str(files / "s.npz"), "--epochs", "2", "--seed", "5"]) == 0
    judge = load_classifier(out)
    assert judge.facts["epochs"] == 2 and judge.facts["seed"] == 5 and judge.kind_names == tuple("abcde") and judge.class_of.tolist() == [2, 0, 1, 3, 4]
    assert judge.class_probabilities(to_pictures(load_sprites(files / "s.npz").sprites[:3])).shape == (3, 5)
    assert str(out) in capsys.readouterr().out
