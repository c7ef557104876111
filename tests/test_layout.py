"""The picture of what imports what, read from the source, and what holds for files as such."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ROOT

SERVICES = {"user_service", "product_service", "order_service"}
STORES = {"in_memory_db", "redis_clients", "redis_db", "redis_stores"}
SHARED = "shopsphere"
LEAVES: dict[str, set[str]] = {
    "shopsphere.domain.errors": set(),
    "shopsphere.models": set(),
    "shopsphere.settings": {
        "shopsphere.domain.errors"
    },  # for CannotStart, which names a wrong setting
    "shopsphere.installing": set(),
    "shopsphere.launcher": {"shopsphere.installing"},
}
MAY_IMPORT = {
    **{service: {"storage", SHARED} for service in SERVICES},
    "storage": {*STORES, SHARED},
    "in_memory_db": {SHARED},
    "redis_stores": {"redis_db", "redis_clients", SHARED},
    "redis_db": {"redis_clients", SHARED},
    "redis_clients": {SHARED},
    SHARED: {SHARED},
    "test_connection": {"redis_clients", SHARED},
    "start_all_services": {"shopsphere.launcher"},
    "run_tests": {"start_all_services", "shopsphere.installing"},
}
"""What each module or package of ours may import; a package stands for all that is in it."""

FILES = [
    file
    for pattern in ("*.py", "shopsphere/**/*.py", "redis_stores/**/*.py")
    for file in sorted(ROOT.glob(pattern))
]


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}
OURS = {name.partition(".")[0] for name in MODULES}


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the full name of every module that the code imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "a relative import hides where it points"
            assert node.level == 0, "a relative import hides where it points"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def imports_of(name: str) -> set[str]:
    return set(imports(ast.parse(MODULES[name].read_text(encoding="utf-8"))))


def ours_in(names: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] in OURS}


def is_within(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name: str) -> None:
    allowed = LEAVES.get(name)
    if allowed is None:
        (place,) = (place for place in MAY_IMPORT if is_within(name, {place}))
        allowed = MAY_IMPORT[place]
    assert {found for found in ours_in(imports_of(name)) if not is_within(found, allowed)} == set()


def test_the_launcher_needs_nothing_but_the_standard_library() -> None:
    for name in ("start_all_services", "run_tests", "shopsphere.launcher", "shopsphere"):
        others = imports_of(name) - ours_in(imports_of(name))
        assert {other.partition(".")[0] for other in others} <= sys.stdlib_module_names, name


@pytest.mark.parametrize("kind", ["user", "product", "order"])
def test_a_store_is_imported_only_inside_the_switch_that_opens_it(kind: str) -> None:
    functions: dict[str, ast.AST] = {}
    rest: list[ast.stmt] = []
    for node in ast.parse(MODULES["storage"].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions[node.name] = node
        else:
            rest.append(node)
    assert not {name for name in imports(ast.Module(rest, [])) if is_within(name, STORES)}
    opened = {name for name in imports(functions[f"open_{kind}_store"]) if is_within(name, STORES)}
    assert opened == {"in_memory_db", "redis_clients", f"redis_stores.{kind}s"}


@pytest.mark.parametrize(
    ("name", "unwanted"),
    [
        ("shopsphere.ordering.checkout", {"fastapi", "starlette", "requests", "redis"}),
        ("shopsphere.ordering.product_client", {"fastapi", "starlette"}),
        ("in_memory_db", {"fastapi", "starlette", "redis", "aredis_om"}),
        ("redis_db", {"fastapi", "starlette"}),
        ("redis_clients", {"fastapi", "starlette"}),
        ("shopsphere.stores", {"fastapi", "starlette", "redis", "aredis_om"}),
        *((service, {"redis", "aredis_om", "requests"}) for service in sorted(SERVICES)),
    ],
)
def test_a_module_knows_its_room(name: str, unwanted: set[str]) -> None:
    assert not {found for found in imports_of(name) if is_within(found, unwanted)}


def test_nobody_imports_redis_in_a_shop_that_is_all_in_memory() -> None:
    question = (
        "import sys, asyncio, storage; from shopsphere.settings import Settings;"
        "settings = Settings(use_redis='false');"
        "[asyncio.run(opening(settings)) for opening in (storage.open_user_store,"
        " storage.open_product_store, storage.open_order_store)];"
        "print(sorted({'redis', 'aredis_om', 'redis_db', 'redis_clients'} & set(sys.modules)))"
    )
    assert answer_of("-c", question) == "[]\n"


def test_where_no_redis_answers_only_its_client_was_imported() -> None:
    question = (
        "import sys, asyncio, product_service, storage; from shopsphere.settings import Settings;"
        "asyncio.run(storage.open_product_store(Settings(use_redis='true', redis_port=1)));"
        "print(sorted({'redis', 'aredis_om', 'redis_db', 'limits'} & set(sys.modules)))"
    )
    assert answer_of("-c", question) == "['redis']\n"


def answer_of(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    ).stdout


def test_every_lua_script_stands_beside_the_store_that_runs_it() -> None:
    named = "".join(
        file.read_text(encoding="utf-8") for file in sorted(ROOT.glob("redis_stores/*.py"))
    )
    scripts = {file.stem for file in ROOT.glob("redis_stores/*.lua")}
    assert {script for script in scripts if f'"{script}"' not in named} == set()
    elsewhere = {file.parent.name for file in ROOT.glob("[!.]*/**/*.lua")}
    assert elsewhere <= {"redis_stores", "benchmarks"}  # wrk's load is written in Lua too


def test_no_module_is_called_utils() -> None:
    assert not {name for name in MODULES if name.rpartition(".")[2] in ("utils", "helpers")}


def test_importing_the_connection_check_does_nothing() -> None:
    assert answer_of("-c", "import test_connection; print('imported')") == "imported\n"


def test_pytest_collects_only_what_is_in_tests(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getini("testpaths") == ["tests"]


def test_the_protocol_model_finds_what_breaks_without_compare_and_set() -> None:
    model = str(ROOT / "docs" / "protocol_model.py")
    verdict = answer_of(model, "no-cas", "1").partition("\n")[0]
    assert verdict.startswith("WRONG after ")
    assert "record L, reservation R" in verdict
