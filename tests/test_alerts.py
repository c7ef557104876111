"""The alerts of docs/alerts.yml: Prometheus accepts them, and they fire when they should."""

import re
import shutil
import subprocess

import pytest

from tests.servers import ROOT

DOCS = ROOT / "docs"


@pytest.mark.skipif(not shutil.which("promtool"), reason="THE ALERTS ARE NOT TESTED: no promtool")
def test_alerts_fire_when_they_should_and_only_then() -> None:
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        ended = subprocess.run(["promtool", *command], cwd=DOCS, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_each_alert_is_explained_and_tested() -> None:
    rules, tests = ((DOCS / f"{name}.yml").read_text() for name in ("alerts", "alerts_test"))
    alerts = re.findall(r"- alert: (\w+)", rules)
    page = (DOCS / "operating.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^\| `([A-Z]\w+)` \|", page) == alerts
    fired = re.findall(r"alertname: (\w+)\n +exp_alerts", tests)
    assert set(fired) == set(alerts)
