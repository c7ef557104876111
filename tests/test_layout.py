"""The picture of what imports what, read from the source, and what holds for files as such."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.servers import ROOT

SERVICES = {"user_service", "product_service", "order_service"}
STORAGES = {"in_memory_db", "redis_db", "shopsphere.redis_clients"}
SHARED = "shopsphere"
DOMAIN = "shopsphere.domain"
CLIENTS, TOOLS, WEB = (f"shopsphere.{room}" for room in ("redis_clients", "tools", "web"))
PACKAGES = "shopsphere.packages"
PORT = {DOMAIN, "shopsphere.records"}
ROOMS = {f"shopsphere.{room}" for room in ("catalogue", "ordering", "accounts")}
RULES = {f"{DOMAIN}.{rules}" for rules in ("stock", "orders", "idempotency", "people")}
COMMON = {
    f"shopsphere.{name}"
    for name in ("deadline", "http_sessions", "logs", "metrics", "settings", "tokens", "workers")
}
FRAMEWORK = {"fastapi", "starlette"}
WATCHED = {*FRAMEWORK, "uvicorn", "redis", "aredis_om", "requests"}
MAY_IMPORT: dict[str, set[str]] = {
    **{name: {"storage", PACKAGES, *PORT, *ROOMS, *COMMON, WEB, *FRAMEWORK} for name in SERVICES},
    "storage": {*STORAGES, *PORT, *COMMON},
    "in_memory_db": PORT,
    "redis_db": {CLIENTS, *PORT, "shopsphere.settings", "aredis_om"},
    "test_connection": {PACKAGES, CLIENTS, TOOLS, *PORT, *COMMON, "redis", "requests"},
    "start_all_services": {TOOLS},
    "run_tests": {"start_all_services", TOOLS},
    WEB: {WEB, *PORT, *COMMON, "shopsphere.lists", *FRAMEWORK, "uvicorn"},
    TOOLS: {TOOLS, *PORT, *COMMON, "requests"},
    **{room: {room, *PORT, *COMMON, "shopsphere.lists"} for room in ROOMS},
    "shopsphere.ordering.product_client": {*PORT, *COMMON, "requests"},
    CLIENTS: {CLIENTS, DOMAIN, *COMMON, "redis"},
    "shopsphere.lists": PORT,
    "shopsphere.records": {DOMAIN},
    "shopsphere.settings": {DOMAIN},
    "shopsphere.http_sessions": {"shopsphere.deadline", "requests"},
    SHARED: {DOMAIN, *COMMON},
    DOMAIN: {DOMAIN},
}
"""What each module or package of ours may import of ours and of what is watched; a package stands
for all that is in it, but for what has its own line."""

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


def is_within(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def test_imports_point_one_way() -> None:
    for name in MODULES:
        place = max((place for place in MAY_IMPORT if is_within(name, {place})), key=len)
        found = {each for each in imports_of(name) - {SHARED} if is_within(each, OURS | WATCHED)}
        assert {each for each in found if not is_within(each, MAY_IMPORT[place])} == set(), name


def test_a_storage_knows_no_rule() -> None:
    found = {each for name in STORAGES for each in imports_of(name)}
    assert not {each for each in found if is_within(each, {*RULES, *ROOMS})}


def test_the_domain_does_nothing_but_compute() -> None:
    inside = {name for name in MODULES if is_within(name, {DOMAIN})}
    others = {each.partition(".")[0] for name in inside for each in imports_of(name)} - OURS
    assert others <= {
        "collections", "dataclasses", "datetime", "decimal", "email_validator", "enum", "hashlib",
        "math", "pydantic", "re", "typing", "ulid", "unicodedata",
    }  # fmt: skip


def test_the_launcher_needs_nothing_but_the_standard_library() -> None:
    tools = (f"{TOOLS}.{name}" for name in ("launcher", "installing", "processes"))
    for name in ("start_all_services", "run_tests", SHARED, PACKAGES, TOOLS, *tools):
        others = {each.partition(".")[0] for each in imports_of(name)} - OURS
        assert others <= sys.stdlib_module_names, name


def test_a_storage_is_imported_only_where_the_switch_opens_it() -> None:
    tree = ast.parse(MODULES["storage"].read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if not isinstance(node, ast.AsyncFunctionDef)]
    assert not {name for name in imports(ast.Module(at_once, [])) if is_within(name, STORAGES)}
