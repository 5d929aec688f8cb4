"""What hansa is made of: the audit of dependencies finds what is known, and never passes for what it could not ask."""

import json
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Advisories(BaseHTTPRequestHandler):
    """An advisory source in the form of OSV that knows one weakness, of one package."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        known: dict[str, Any] = {}
        if asked["package"]["name"] == "weakling":
            affected = {
                "package": {"name": "weakling", "ecosystem": "PyPI"},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.2"}]}],
            }
            known = {"vulns": [{"id": "TEST-1", "summary": "it is weak", "affected": [affected]}]}
        body = json.dumps(known).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def advisories() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Advisories) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


def audited(folder: Path, requirements: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    file = folder / "requirements.txt"
    file.write_text(requirements)
    command = [sys.executable, str(ROOT / "tools/audit.py"), "--requirements", str(file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_known_weakness_fails_the_audit(tmp_path: Path, advisories: str) -> None:
    done = audited(tmp_path, "weakling==1.1\nstrong==2.0\n", "--osv-url", advisories)
    assert done.returncode == 1
    assert "weakling 1.1 has TEST-1 (mended in 1.2)" in done.stdout


def test_packages_without_a_known_weakness_pass_it(tmp_path: Path, advisories: str) -> None:
    done = audited(tmp_path, "strong==2.0\n", "--osv-url", advisories)
    assert (done.returncode, done.stdout) == (0, "1 packages have no known weakness\n")


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--required"], 1)])
def test_where_nobody_answers_nothing_was_audited(tmp_path: Path, arguments: list[str], code: int) -> None:
    nobody = "http://127.0.0.1:9/v1/query"
    done = audited(tmp_path, "strong==2.0\n", "--osv-url", nobody, *arguments)
    assert done.returncode == code
    assert "NOT AUDITED" in done.stderr
    assert "no known weakness" not in done.stdout


@pytest.mark.slow
def test_the_bill_of_materials_names_every_dependency_with_its_version(tmp_path: Path) -> None:
    target = tmp_path / "bill.json"
    subprocess.run([sys.executable, str(ROOT / "tools/sbom.py"), str(target)], check=True, capture_output=True)
    bill = json.loads(target.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    licensed = [each for each in bill["components"] if each.get("licenses")]
    assert len(licensed) > 0.9 * len(bill["components"])  # some say it in prose alone
    listed = {each["name"].lower().replace("_", "-"): each for each in bill["components"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for needed in (*project["dependencies"], *project["optional-dependencies"]["server"]):
        name = needed.partition(">")[0].lower()
        assert listed[name]["version"], name
        assert listed[name]["purl"].startswith(f"pkg:pypi/{name}@"), name


def test_what_the_gates_passed_with_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all("==" in line for line in lines if line and not line.startswith("#"))
