"""The shipped weights and their cards: what is written about a file was measured with that very file."""

import hashlib
import json
from pathlib import Path

import pytest

from sprites_lab import ablation, evaluation, lab
from sprites_lab.ablation import ARMS
from sprites_lab.data import SPRITES

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
NETWORKS = ["epoch-00", "epoch-04", "epoch-08", "epoch-31", "sprites"]
README = (WEIGHTS / "README.md").read_text(encoding="utf-8")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_checksums_are_of_all_weights_and_cards():
    listed = dict(reversed(line.split("  ")) for line in (WEIGHTS / "checksums.txt").read_text().splitlines())
    assert listed == {path.name: sha256(path) for path in sorted(WEIGHTS.iterdir()) if path.suffix in (".safetensors", ".json")}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_a_card_that_was_measured_with_it(name):
    card = lab.load_card(name)
    files = {"network": WEIGHTS / f"{name}.safetensors", "classifier": lab.CLASSIFIER, "sprites": SPRITES}
    assert {what: card[f"{what}_sha256"] for what in files} == {what: sha256(path) for what, path in files.items()}
    assert (WEIGHTS / f"{name}.md").read_text(encoding="utf-8") == evaluation.table(card)
    assert {row.keys() == evaluation.MEANING.keys() for rows in card["rows"].values() for row in rows} == {True}


@pytest.mark.parametrize(("name", "weights"), [*[(name, "sprites") for name in ("ddim-20", "ten-calls", "seven-calls", "five-calls")], *[(f"student-{n}",) * 2 for n in lab.STUDENTS]])
def test_every_other_walk_has_a_card_that_was_measured_with_its_network(name, weights):
    card = lab.load_card(name)
    files = {"network": WEIGHTS / f"{weights}.safetensors", "classifier": lab.CLASSIFIER, "sprites": SPRITES}
    assert {what: card[f"{what}_sha256"] for what in files} == {what: sha256(path) for what, path in files.items()}
    assert (WEIGHTS / f"{name}.md").read_text(encoding="utf-8") == evaluation.table(card)


@pytest.mark.parametrize("steps", lab.STUDENTS)
def test_the_students_say_how_they_walk_and_who_taught_them(steps):
    facts = lab.load_weights(WEIGHTS / f"student-{steps}.safetensors").facts
    assert facts["walk"] == dict(sampler="ddim", steps=steps, spacing="quadratic", start="fitted")
    assert facts["teacher_sha256"] == sha256(lab.FINAL) and facts["sprites_sha256"] == sha256(SPRITES) and facts["student"]["steps"] == steps


def test_the_networks_have_the_announced_recipes():
    facts = {name: lab.load_weights(WEIGHTS / f"{name}.safetensors").facts for name in NETWORKS}
    assert {name: fact["recipe"]["recipe"] if "recipe" in fact["recipe"] else "course" for name, fact in facts.items()} == dict.fromkeys(NETWORKS[:-1], "course") | {"sprites": "improved"}
    assert [facts[name]["weights"] for name in NETWORKS] == ["model"] * 4 + ["average"]
    best, course = facts["sprites"], facts["epoch-31"]
    assert best["updates"] * best["recipe"]["batch_size"] == course["updates"] * course["recipe"]["batch_size"]  # as many sprites seen
    assert best["updates_before"] == course["updates_before"] == 0


def test_the_readme_shows_the_cards():
    assert evaluation.table(lab.load_card("sprites")) in README and evaluation.table(lab.load_card("epoch-31")) in README


def test_the_ablation_has_every_arm():
    arms = lab.load_card("ablation")
    assert {arm["arm"] for arm in arms} >= set(ARMS) and all(arm["recipe"] == ARMS[arm["arm"]] for arm in arms)
    assert json.dumps(arms).count("NaN") == 0


def test_the_readme_shows_the_network_without_each_of_its_parts():
    card = lab.load_card("parts")
    assert [(arm["without"], arm["seed"]) for arm in card] == [*((part, 0) for part in ablation.PARTS), ("nothing", 1)]
    assert {(*arm["times"], arm["updates"], arm["features"], arm["sprites"]) for arm in card} == {(*ablation.TIMES, 562, 16, 600)}  # equal budgets
    assert "\n".join([ablation.PARTS_HEADER, *map(ablation.part_line, card)]) in README
