"""`python -m fuzz`: fuzz one target, guided by the code that its inputs reach (libFuzzer, by way of atheris).

Inputs that reach something new are kept in out/fuzz, and the next run begins with them.
"""

import argparse
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hansa", "zipfile", "json"]):
    from fuzz.targets import CRASHES, TARGETS

_FOLDER = Path(__file__).parents[2] / "out" / "fuzz"
_MEGABYTES = 1024
"""The most memory of a run; an archive may bring 64 MiB."""
_SLOWEST = 10
"""Seconds that one input may take."""


def main() -> None:
    """Run until the time is over; what is found ends it with the input in a file, and an exit code that is not 0."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--longest", type=int, default=1 << 14, help="bytes of an input")
    parser.add_argument("--seed", type=int, default=0, help="0: another one in every run")
    given = parser.parse_args()
    target, folder = TARGETS[given.target], _FOLDER / given.target
    corpus, words = folder / "corpus", folder / "words.txt"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words)
    words.write_text("".join(lines), encoding="ascii")
    options = {
        "max_total_time": given.seconds,
        "max_len": given.longest,
        "timeout": _SLOWEST,
        "rss_limit_mb": _MEGABYTES,
        "seed": given.seed,
        "dict": words,
        "artifact_prefix": f"{folder}/",
        "print_final_stats": 1,
    }
    known = [str(path) for path in (CRASHES / given.target,) if path.is_dir()]
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, str(corpus), *known], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
