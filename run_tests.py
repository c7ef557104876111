"""Runs all checks: sets up `.venv`, then runs ruff, mypy and pytest with any given arguments."""

import subprocess
import sys

import start_all_services  # noqa: F401  # it refuses an unsupported Python
from shopsphere import ROOT
from shopsphere.tools.installing import set_up
from shopsphere.tools.processes import LauncherError, say

CHECKS = ("ruff check .", "ruff format --check .", "mypy", "pytest")


def main(pytest_arguments: list[str]) -> None:
    """Run every check, even after a failure; exit with 0 only if all passed."""
    try:
        python = set_up("requirements-dev.txt")
    except LauncherError as error:
        sys.exit(f"Error: {error}")
    failed = []
    for check in CHECKS:
        say(f"\n== {check}")
        command = [str(python), "-m", *check.split()]
        command += pytest_arguments if check == "pytest" else []
        if subprocess.run(command, cwd=ROOT).returncode:
            failed.append(check)
    if failed:
        sys.exit(f"\nFailed: {', '.join(failed)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(1)
