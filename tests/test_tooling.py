"""The set-up: versions without addresses, scripts that parse, an import that stays light."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PINS = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line and not line.startswith("#")]
EXTRAS = PROJECT["project"]["optional-dependencies"]
REQUIREMENTS = [Requirement(text) for text in (*PROJECT["project"]["dependencies"], *EXTRAS["test"], *EXTRAS["book"], *EXTRAS["browser"])]

# Hosts that packages are fetched from, spelled so that this file does not hold them.
REGISTRIES = re.compile("|".join(["py" + r"pi\.org", "python" + r"hosted", r"download\.py" + r"torch", "ana" + r"conda\.(?:org|com)",
                                  "npm" + r"js\.(?:org|com)", r"index-url[= ]+\S*:/" + "/", "/simple" + r"/?(?:\s|$)"]))
TEXT = {".cfg", ".css", ".html", ".ipynb", ".md", ".py", ".sh", ".toml", ".txt", ".yml", ""}
FOLDERS = ["", ".ci", "book", "book/templates", "docs", "notebooks", "sprites_lab", "sprites_lab/drawing", "tests"]
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*")) if path.is_file() and path.suffix in TEXT]


def name_of(requirement: str) -> str:
    """A package's name in its normal form."""
    return re.sub(r"[-_.]+", "-", requirement).lower()


def test_constraints_are_names_and_versions():
    for pin in PINS:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin), pin
        assert not re.match(r"nvidia|cuda|triton", pin, re.IGNORECASE), pin
    names = [name_of(pin.split("==")[0]) for pin in PINS]
    assert names == sorted(set(names), key=names.index)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_every_dependency_is_pinned_within_its_bounds(requirement: Requirement):
    pinned = {name_of(name): version for name, version in (pin.split("==") for pin in PINS)}
    assert requirement.specifier.contains(pinned[name_of(requirement.name)])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_registry_address(path: Path):
    found = REGISTRIES.search(path.read_text("utf-8"))
    assert not found, f"{path.name} names the package registry {found[0]}"


@pytest.mark.parametrize("pin", PINS)
def test_every_pin_runs_on_the_oldest_python(pin: str):
    name, version = pin.split("==")
    try:
        found = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not needed here")
    if found["Version"].partition("+")[0] != version:
        pytest.skip(f"{name} {found['Version']} is installed")
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=") + ".0"  # Debian 12 has 3.11.2
    assert SpecifierSet(found["Requires-Python"] or "").contains(oldest), f"{pin} needs Python {found['Requires-Python']}"


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml", "Makefile", ".ci/run", "book/lab.sh"])
def test_set_up_holds_no_address_at_all(name: str):
    text = (ROOT / name).read_text("utf-8")
    assert not re.search(r"https?:|file:|git\+| @ ", text)


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
@pytest.mark.parametrize("name", [".ci/run", "book/lab.sh"])
def test_scripts_parse(name: str):
    subprocess.run(["bash", "-n", ROOT / name], check=True)
    assert os.name == "nt" or os.access(ROOT / name, os.X_OK)


def test_import_is_light():
    heavy = "{'matplotlib', 'torchvision', 'IPython', 'ipywidgets', 'tqdm'}"
    code = f"import sys, torch; before = set(sys.modules); import sprites_lab; print(sorted({heavy} & (set(sys.modules) - before)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]", f"import sprites_lab also imports {result.stdout}"


def test_import_leaves_torch_as_it_was():
    state = "(torch.initial_seed(), torch.get_rng_state().sum().item(), torch.get_default_dtype(), torch.is_grad_enabled())"
    code = f"import torch; before = {state}; import sprites_lab; print(before == {state})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True"


def test_package_data_is_there():
    for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        for pattern in patterns:
            assert list((ROOT / package.replace(".", "/")).glob(pattern)), f"{package} has no {pattern}"
