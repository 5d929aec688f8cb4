"""The alerts of the page on monitoring, as Prometheus itself evaluates them: each fires, and none where all is well."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "how-to" / "monitor.md").read_text()
(RULES,) = re.findall(r"^```yaml\n(groups:\n.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
EXAMPLES = HERE / "alerts.yaml"


def test_there_is_an_example_of_each_alert_that_fires() -> None:
    fired = re.findall(r"alertname: (\w+)\n +exp_alerts:", EXAMPLES.read_text())
    assert sorted(set(fired)) == sorted(re.findall(r"- alert: (\w+)", RULES))


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    (tmp_path / "rules.yaml").write_text(RULES)
    shutil.copy(EXAMPLES, tmp_path)
    for command in (("check", "rules", "--lint-fatal", "rules.yaml"), ("test", "rules", EXAMPLES.name)):
        done = subprocess.run([promtool, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
