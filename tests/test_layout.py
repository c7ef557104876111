"""The picture of what imports what, read from the source, and what holds for files as such."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ROOT

SERVICES = {"user_service", "product_service", "order_service"}
STORAGES = {"in_memory_db", "redis_clients", "redis_db"}
SHARED = "shopsphere"
DOMAIN = "shopsphere.domain"
PORT = {DOMAIN, "shopsphere.records"}
ROOMS = {f"shopsphere.{room}" for room in ("catalogue", "ordering", "accounts")}
RULES = {f"{DOMAIN}.{rules}" for rules in ("stock", "orders", "idempotency", "people")}
WEB = {"fastapi", "starlette"}
MAY_IMPORT: dict[str, set[str]] = {
    **{service: {"storage", SHARED} for service in SERVICES},
    "storage": {*STORAGES, *PORT, "shopsphere.settings", "shopsphere.workers"},
    "in_memory_db": PORT,
    "redis_db": {"redis_clients", *PORT},
    "redis_clients": {DOMAIN, "shopsphere.deadline", "shopsphere.settings"},
    DOMAIN: {DOMAIN},
    "shopsphere.records": PORT,
    "shopsphere.lists": PORT,
    "shopsphere.deadline": set(),
    "shopsphere.models": {DOMAIN},
    "shopsphere.settings": {DOMAIN, "shopsphere.models"},  # for CannotStart, addresses
    "shopsphere.installing": set(),
    "shopsphere.launcher": {"shopsphere.installing"},
    "shopsphere.catalogue": {"shopsphere.catalogue", *PORT, "shopsphere.lists"},
    "shopsphere.accounts": {
        "shopsphere.accounts", *PORT, "shopsphere.settings", "shopsphere.tokens",
    },
    "shopsphere.ordering": {
        "shopsphere.ordering", *PORT, "shopsphere.lists", "shopsphere.deadline", "shopsphere.logs",
        "shopsphere.metrics", "shopsphere.models", "shopsphere.sessions", "shopsphere.tokens",
    },
    SHARED: {SHARED},
    "test_connection": {"redis_clients", SHARED},
    "start_all_services": {"shopsphere.launcher"},
    "run_tests": {"start_all_services", "shopsphere.installing"},
}  # fmt: skip
"""What each module or package of ours may import; a package stands for all that is in it, but for
what has a line of its own."""

FILES = [file for pattern in ("*.py", "shopsphere/**/*.py") for file in sorted(ROOT.glob(pattern))]


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
    place = max((place for place in MAY_IMPORT if is_within(name, {place})), key=len)
    found = ours_in(imports_of(name))
    assert {each for each in found if not is_within(each, MAY_IMPORT[place])} == set()


def test_what_all_share_knows_no_room() -> None:
    shared = {name for name in MODULES if is_within(name, {SHARED}) and not is_within(name, ROOMS)}
    assert not {name for name in shared for each in imports_of(name) if is_within(each, ROOMS)}


@pytest.mark.parametrize("name", sorted(STORAGES))
def test_a_storage_knows_no_rule(name: str) -> None:
    assert not {each for each in imports_of(name) if is_within(each, {*RULES, *ROOMS})}


@pytest.mark.parametrize("name", [name for name in MODULES if is_within(name, {DOMAIN})])
def test_the_domain_does_nothing_but_compute(name: str) -> None:
    others = {each.partition(".")[0] for each in imports_of(name) - ours_in(imports_of(name))}
    assert others <= {
        "base64", "collections", "dataclasses", "datetime", "enum", "hashlib", "math", "pydantic",
        "re", "typing", "ulid", "unicodedata",
    }  # fmt: skip


def test_the_launcher_needs_nothing_but_the_standard_library() -> None:
    for name in ("start_all_services", "run_tests", "shopsphere.launcher", "shopsphere"):
        others = imports_of(name) - ours_in(imports_of(name))
        assert {other.partition(".")[0] for other in others} <= sys.stdlib_module_names, name


def test_a_storage_is_imported_only_where_the_switch_opens_it() -> None:
    tree = ast.parse(MODULES["storage"].read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.AsyncFunctionDef)]
    rest = [node for node in tree.body if node not in functions]
    assert [function.name for function in functions] == ["open_storage"]
    assert not {name for name in imports(ast.Module(rest, [])) if is_within(name, STORAGES)}
    assert {name for name in imports(functions[0]) if is_within(name, STORAGES)} == STORAGES


@pytest.mark.parametrize(
    ("name", "unwanted"),
    [
        ("in_memory_db", {*WEB, "redis", "aredis_om", "requests"}),
        ("redis_db", {*WEB, "requests"}),
        ("redis_clients", {*WEB, "aredis_om", "requests"}),
        ("storage", {*WEB, "redis", "aredis_om", "requests"}),
        *((service, {"redis", "aredis_om", "requests"}) for service in sorted(SERVICES)),
        *(
            (name, {*WEB, "uvicorn", "redis", "aredis_om"})
            for name in MODULES
            if is_within(name, {*ROOMS, *PORT, "shopsphere.lists", "shopsphere.deadline"})
        ),
        *(
            (name, {"requests"})
            for name in MODULES
            if is_within(name, ROOMS) and name != "shopsphere.ordering.product_client"
        ),
    ],
)
def test_a_module_knows_its_room(name: str, unwanted: set[str]) -> None:
    assert not {found for found in imports_of(name) if is_within(found, unwanted)}


def test_rooms_and_storages_run_without_a_web_framework() -> None:
    names = [name for name in MODULES if is_within(name, {*ROOMS, "in_memory_db", "redis_db"})]
    question = (
        f"import sys, {', '.join(names)};"
        "print(sorted({'fastapi', 'starlette', 'uvicorn'} & set(sys.modules)))"
    )
    assert answer_of("-c", question) == "[]\n"


def test_nobody_imports_redis_in_a_shop_that_is_all_in_memory() -> None:
    question = (
        f"import sys, asyncio, storage, {', '.join(sorted(SERVICES))};"
        "from shopsphere.settings import Settings;"
        "asyncio.run(storage.open_storage(Settings(use_redis='false')));"
        "print(sorted({'redis', 'aredis_om', 'redis_db', 'redis_clients'} & set(sys.modules)))"
    )
    assert answer_of("-c", question) == "[]\n"


def test_where_no_redis_answers_only_its_client_was_imported() -> None:
    question = (
        "import sys, asyncio, product_service, storage; from shopsphere.settings import Settings;"
        "asyncio.run(storage.open_storage(Settings(use_redis='true', redis_port=1)));"
        "print(sorted({'redis', 'aredis_om', 'redis_db'} & set(sys.modules)))"
    )
    assert answer_of("-c", question) == "['redis']\n"


def answer_of(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    ).stdout


def test_no_module_is_called_utils() -> None:
    assert not {name for name in MODULES if name.rpartition(".")[2] in ("utils", "helpers")}


def test_importing_the_connection_check_does_nothing() -> None:
    assert answer_of("-c", "import test_connection; print('imported')") == "imported\n"


def test_pytest_collects_only_what_is_in_tests(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getini("testpaths") == ["tests"]
