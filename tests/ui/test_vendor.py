"""What of others is brought along is what its maker has published, and has its licence beside it."""

import hashlib
import tomllib
from importlib.resources import files

VENDOR = files("hansa.ui") / "static" / "vendor"


def test_every_vendored_file_is_the_one_that_is_recorded_and_has_a_licence() -> None:
    packages = tomllib.loads((VENDOR / "VENDOR.toml").read_text())["package"]
    recorded = {name: digest for package in packages for name, digest in package["sha256"].items()}
    found = {
        item.name: hashlib.sha256(item.read_bytes()).hexdigest()
        for item in VENDOR.iterdir()
        if item.name != "VENDOR.toml"
    }
    assert found == recorded
    for package in packages:
        assert any(name.endswith(".LICENSE") for name in package["sha256"]), package["name"]
