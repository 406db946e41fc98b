"""What `evaluate --likelihood` and `classify` do: rows that mean what they say, refused files, printed tables."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small import network, sprite_arrays, write_sprites, write_weights

from sprites_lab import LabError, likelihood, probabilities
from sprites_lab.__main__ import main
from sprites_lab.checkpoints import sha256_of
from sprites_lab.data import load_sprites, to_pictures


@pytest.fixture
def files(tmp_path):
    sprites = write_sprites(tmp_path / "s.npz", **sprite_arrays(count=80))
    return write_weights(tmp_path / "w.safetensors", network(), sprites_sha256=sha256_of(sprites)), sprites


def test_rows_are_what_they_are_called_and_parts_add_up(files):
    found = probabilities.bits_per_dimension(probabilities.open_trained(*files), 8, 4)
    assert list(found["rows"]) == [
        "training sprites", "held-out sprites", "held-out sprites, no context", "held-out sprites, pixels shuffled", "noise of 256 levels",
        "held-out sprites, a Gaussian for each value",
    ]  # fmt: skip
    for name, row in found["rows"].items():
        if "each" in row:
            assert row["total"][0] == pytest.approx(sum(row[part][0] for part in probabilities.PARTS[1:])) == pytest.approx(np.mean(row["each"])), name
            assert row["total"][1] == pytest.approx(np.std(row["each"], ddof=1) / 8**0.5) and row["L_T"][0] > 0
            by_t = {part: np.array(values) for part, values in row["by_t"].items()}
            assert (by_t["bits"] * by_t["timesteps"]).sum() == pytest.approx(row["sum of L_t"][0]), name
            assert (np.diff(by_t["t"]) > 0).all() and by_t["timesteps"].sum() == probabilities.open_trained(*files).found.schedule.timesteps - 1
    rows = found["rows"]
    assert rows["held-out sprites"]["L_T"] == rows["held-out sprites, no context"]["L_T"] == pytest.approx(rows["held-out sprites, pixels shuffled"]["L_T"])
    assert rows["held-out sprites"]["total"] != rows["held-out sprites, no context"]["total"] != rows["training sprites"]["total"]
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(probabilities.bits_per_dimension(probabilities.open_trained(*files), 8, 4)))


def test_sprites_of_a_row_are_different_ones_of_the_split(files):
    whole = load_sprites(files[1])
    known, fitted = probabilities.parts_of(whole.train, (20, 30), 0)
    assert (len(known), len(fitted)) == (20, 30)
    train = {sprite.tobytes() for sprite in whole.train.sprites}
    parts = [{sprite.tobytes() for sprite in part.sprites} for part in (known, fitted)]
    assert len(parts[0]) == 20 and not parts[0] & parts[1] and parts[0] | parts[1] <= train
    with pytest.raises(LabError, match="asks for 61 sprites, the file has 60"):
        probabilities.parts_of(whole.train, (31, 30), 0)


def test_shuffling_keeps_the_pixels_and_loses_their_places(files):
    pictures = load_sprites(files[1]).pictures()[:5]
    mixed = probabilities.shuffled(pictures, 0)
    assert not torch.equal(mixed, pictures) and torch.equal(mixed, probabilities.shuffled(pictures, 0))
    for one, other in zip(pictures.flatten(2), mixed.flatten(2)):
        assert sorted(map(tuple, one.T.tolist())) == sorted(map(tuple, other.T.tolist()))  # whole pixels, not values


def test_a_gaussian_for_each_value_costs_what_its_entropy_says():
    chance = torch.Generator().manual_seed(0)
    values = (127.5 + 20 * torch.randn(2000, 1, 2, 2, generator=chance)).round().clamp(0, 255)
    pictures = values / 127.5 - 1
    bits, error = probabilities.gaussian_bits(pictures[:1000], pictures[1000:])
    assert bits == pytest.approx(np.log2(20 * (2 * np.pi * np.e) ** 0.5), abs=4 * error + 0.01)


def test_noise_of_256_levels_is_made_of_256_levels(files):
    made = probabilities.seeded_bytes(torch.zeros(50, 3, 16, 16), 0)
    assert made.shape == (50, 16, 16, 3) and made.min() == 0 and made.max() == 255
    likelihood.check_pictures(probabilities.open_trained(*files).found.schedule, to_pictures(made), torch.ones(501))


def test_other_sprites_than_those_of_the_network_are_refused(files, tmp_path):
    weights, _ = files
    with pytest.raises(LabError, match="other sprites than .*--sprites"):
        probabilities.open_trained(weights, write_sprites(tmp_path / "other.npz", seed=1))
    with pytest.raises(LabError, match="other classes"):
        probabilities.open_trained(write_weights(tmp_path / "x.safetensors", network()), write_sprites(tmp_path / "named.npz", class_names=np.array([*"abcde"])))
    with pytest.raises(LabError, match="--count is 3"):
        probabilities.bits_per_dimension(probabilities.open_trained(*files), 3)
    with pytest.raises(LabError, match="--steps is 500"):
        probabilities.bits_per_dimension(probabilities.open_trained(*files), 8, 500)


def test_the_command_prints_the_table_and_writes_the_numbers(files, tmp_path, capsys):
    asked = ["evaluate", "--likelihood", "--weights", str(files[0]), "--sprites", str(files[1]), "--count", "8", "--steps", "3", "--json", str(tmp_path / "b.json")]
    assert main(asked) == 0
    found = json.loads((tmp_path / "b.json").read_text())
    out = capsys.readouterr().out
    assert found["network"] == "w.safetensors" and found["network_sha256"] == sha256_of(files[0])
    assert probabilities.table(found) in out and (tmp_path / "b.md").read_text() == probabilities.table(found)
    assert "8 held-out sprites" in out and "| training sprites | " in out


def test_classify_names_the_class_of_each_sprite(files, tmp_path, capsys):
    sprites = load_sprites(files[1]).sprites[:3]
    for number, sprite in enumerate(sprites):
        Image.fromarray(sprite).save(tmp_path / f"{number}.png")
    assert main(["classify", "--weights", str(files[0]), *(str(tmp_path / f"{number}.png") for number in range(3))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.startswith(f"{number} {number + 1}: ") and line.count("%") == 3 for number, line in enumerate(lines))
    assert main(["evaluate", "--likelihood", "--weights", str(files[0]), "--sprites", str(files[1]), "--count", "10000"]) == 2  # taken at its word
    assert "asks for 10200 sprites" in capsys.readouterr().err
    assert main(["classify", "--weights", str(files[0]), str(tmp_path / "no.png")]) == 2 and "there is no file" in capsys.readouterr().err


@pytest.mark.slow
def test_the_shipped_network_prices_sprites_below_noise_and_knows_their_classes(tmp_path, capsys):
    found = probabilities.bits_per_dimension(probabilities.open_trained(), 8, 8)
    price = {name: row["total"][0] for name, row in found["rows"].items()}
    assert price["held-out sprites"] < price["held-out sprites, a Gaussian for each value"] < 8 < price["held-out sprites, pixels shuffled"] < price["noise of 256 levels"]
    test = load_sprites().test
    for name in ("food", "side-facing"):
        Image.fromarray(test.of_class(name).sprites[0]).save(tmp_path / f"{name}.png")
    assert main(["classify", str(tmp_path / "food.png"), str(tmp_path / "side-facing.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("food 1: food 9") or lines[0].startswith("food 1: food 100")
    assert lines[1].startswith("side-facing 2: side-facing ")


@pytest.mark.parametrize("option", [["--pairs", "p.png"], ["--sheet", "s.png"], ["--alone"], ["--sampler", "ddim"], ["--eta", "0"], ["--spacing", "karras"], ["--start", "noise"], ["--classifier", "c"]])
def test_bits_refuse_options_that_draw(option, capsys):
    assert main(["evaluate", "--likelihood", *option]) == 2
    assert f"so {option[0]} means nothing here" in capsys.readouterr().err
