"""The sweep: every way at every number of steps is measured once, kept, and never measured again."""

import json

import pytest
from small import network, write_weights

from sprites_lab import LabError, evaluation, sweep
from sprites_lab.__main__ import main
from sprites_lab.walks import Walk


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "measure", lambda made, ref, seed=0: dict.fromkeys(sweep.KEPT, float(len(made[0]) + seed)))
    return evaluation.open_task(write_weights(tmp_path / "w.safetensors", network()), 300, 2, Walk("ddim", 1, scale=2.0))


def test_each_way_is_measured_once_with_its_own_walk_and_scale(task, tmp_path, monkeypatch):
    ref, seen = evaluation.reference(), []
    real = evaluation.make
    monkeypatch.setattr(evaluation, "make", lambda here, seed: seen.append((here.walk, here.start is not None)) or real(here, seed))
    ways = ["DDIM trailing, from noise", "2M SDE karras"]
    found = list(sweep.sweep(task, ref, tmp_path / "out", ways, [1, 2]))
    assert [(one["way"], one["steps"], one["calls"]) for one in found] == [(way, n, 2 * n) for way in ways for n in (1, 2)]
    assert seen[0] == seen[1] == (Walk("ddim", 1, 0.0, 2.0, "trailing", "noise"), False) and seen[-1] == (Walk("dpm-solver", 2, 1.0, 2.0, "karras", "fitted"), True)
    assert len(seen) == 8 and found[0]["fd_train"] == [300.0, 301.0]
    assert sweep.line(found[3]) == "| 2M SDE karras | 2 | 300.5 | 300.5 | 300.500 | 300.500 | 300.500 |"
    assert list(sweep.sweep(task, ref, tmp_path / "out", ways, [1, 2])) == found and len(seen) == 8
    with pytest.raises(LabError, match="there is no way '3M'"):
        list(sweep.sweep(task, ref, tmp_path / "out", ["DDIM trailing", "3M"], [1]))


def test_every_way_can_be_walked():
    assert len(sweep.WAYS) == 26
    for way, walk in sweep.WAYS.items():
        assert walk._replace(steps=10).checked(500).start == ("noise" if "noise" in way else "fitted") and all(word in way for word in walk.spacing.split())


def test_the_command_prints_a_line_for_each_and_writes_all(task, tmp_path, capsys, monkeypatch):
    options = ["--weights", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "o"), "--count", "300", "--device", "cpu", "--json", str(tmp_path / "s.json")]
    assert main(["sweep", *options, "--ways", "UniPC trailing; iPNDM quadratic", "--steps", "1", "2"]) == 0
    assert capsys.readouterr().out.count("\n| UniPC trailing |") == 2
    assert [one["walk"]["spacing"] for one in json.loads((tmp_path / "s.json").read_text())] == ["trailing"] * 2 + ["quadratic"] * 2
    assert main(["sweep", *options, "--ways", "faster"]) == 2 and "there is no way 'faster'" in capsys.readouterr().err
