"""Every example gives one model however it is run, and its README names what there is."""

import re
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from hansa.app import load_app
from hansa.data import heart_disease
from hansa.errors import InputError
from hansa.messages import ClientInfo, RoundRules, RunSpec
from hansa.run import resolve
from hansa.simulation import check_parity, differences

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(readme.parent for readme in (ROOT / "examples").glob("*/README.md"))
SHARED = ROOT.parent / "shared" / "data"

SPEC = RunSpec(rounds=2, seed=3)
RUNS = {
    "blackbox": (SPEC, 3),
    "digits": (SPEC, 5),
    "heart_disease": (replace(SPEC, algorithm="fedprox"), 4),
    "mnist_cnn": (replace(SPEC, rules=RoundRules(selection="count", count=2)), 300),
    "sklearn_digits": (SPEC, 4),
}
"""Example → (spec, clients), small: 2 of 300 owners of MNIST train in 20 steps each."""

NEEDS = {
    "blackbox": ("sklearn",),
    "digits": ("sklearn",),
    "heart_disease": ("sklearn",),
    "mnist_cnn": ("torch",),
    "sklearn_digits": ("sklearn",),
}


def test_no_example_is_left_out() -> None:
    assert [example.name for example in EXAMPLES] == sorted(RUNS) == sorted(NEEDS)


@pytest.mark.parametrize(
    "name", [*sorted(RUNS.keys() - {"mnist_cnn"}), pytest.param("mnist_cnn", marks=pytest.mark.slow)]
)
def test_an_example_gives_the_same_bits_in_every_way(name: str) -> None:
    for module in NEEDS[name]:
        pytest.importorskip(module)
    if name == "blackbox" and not (shutil.which("cc") and shutil.which("make")):
        pytest.skip("there is no C compiler here")
    if name in {"heart_disease", "mnist_cnn"} and not SHARED.is_dir():
        pytest.skip(f"the public data sets are not in {SHARED}")
    spec, clients = RUNS[name]
    variants = check_parity(ROOT / "examples" / name, spec, clients)
    assert len(variants) == 7
    assert differences(variants) == {}
    before = resolve(spec).initial_model(load_app(ROOT / "examples" / name))
    assert variants[0].model != before, "nothing was learnt"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_paths_and_extras_in_an_examples_readme_are_there(example: Path) -> None:
    text = (example / "README.md").read_text(encoding="utf-8")
    apps = re.findall(r"^hansa simulate (\S+)", text, re.MULTILINE)
    assert apps == [f"examples/{example.name}"] * len(apps)
    assert apps
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if not (example / link).exists()] == []
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"hansa\[(\w+)\]", text)) == set(NEEDS[example.name]) <= set(extras)


def test_a_hospital_on_a_network_reads_its_own_file_and_no_other(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    if not SHARED.is_dir():
        pytest.skip(f"the public data sets are not in {SHARED}")
    shutil.copy(SHARED / "heart_disease" / "processed.va.data", tmp_path)
    load = load_app(ROOT / "examples" / "heart_disease").load_data
    assert load is not None

    mine = load(ClientInfo("long-beach", settings={"data": str(tmp_path), "hospital": "va"}))
    expected = heart_disease.read_hospital(SHARED / "heart_disease", "va")
    assert (mine.train.x == expected.train.x).all()

    with pytest.raises(InputError, match="long-beach does not say which hospital it is"):
        load(ClientInfo("long-beach", settings={"data": str(SHARED / "heart_disease")}))
