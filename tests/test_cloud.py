"""Codespaces and Binder: files that parse, ask for what pyproject.toml asks for, and name no address."""

import json
import os
import re
import shutil
import subprocess

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from test_tooling import PROJECT, REGISTRIES, ROOT, name_of

CONTAINER = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
BINDER = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text("utf-8"))
FILES = [".devcontainer/devcontainer.json", ".binder/environment.yml", ".binder/postBuild"]
ON_CONDA = {"pytorch-cpu": "torch"}  # the name conda-forge gives a package, where it is another one
PYTHONS = SpecifierSet(PROJECT["project"]["requires-python"])


@pytest.mark.parametrize("name", FILES)
def test_no_address(name: str):
    text = (ROOT / name).read_text("utf-8")
    assert not re.search(r"[a-z]+://|git\+| @ ", text) and not REGISTRIES.search(text)


def test_the_container_is_set_up_by_make():
    target = CONTAINER["postCreateCommand"].removeprefix("make ")
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    python = CONTAINER["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert python == "${containerWorkspaceFolder}/" + re.search(r"^PY := (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)[1]


def test_the_container_opens_what_is_there():
    assert all((ROOT / name).is_file() for name in CONTAINER["customizations"]["codespaces"]["openFiles"])
    assert [str(port) for port in CONTAINER["forwardPorts"]] == list(CONTAINER["portsAttributes"])


def test_the_container_is_a_plain_python_of_a_version_we_know():
    version = re.fullmatch(r"python:(\d+\.\d+)-\w+", CONTAINER["image"])
    assert version and PYTHONS.contains(version[1])


def test_binder_asks_for_what_the_package_asks_for():
    python, *packages = map(Requirement, (text.replace("python=", "python==") for text in BINDER["dependencies"]))
    assert python.name == "python" and PYTHONS.contains(str(python.specifier).removeprefix("=="))
    wanted = {name_of(one.name): one.specifier for one in map(Requirement, PROJECT["project"]["dependencies"])}
    assert {ON_CONDA.get(one.name, one.name): one.specifier for one in packages} == wanted


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_what_binder_runs_parses():
    script = ROOT / ".binder" / "postBuild"
    subprocess.run(["bash", "-n", script], check=True)
    assert os.name == "nt" or os.access(script, os.X_OK)
