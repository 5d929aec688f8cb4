"""XGBoost of four hospitals, by bagging and in turn, beside training on the joined rows and alone.

python benchmarks/reproduce/xgboost_trees.py --data FOLDER

FOLDER holds `heart_disease`, the processed files of UCI. Features are as they were measured; depth 3, η = 0.1. Accuracy
and ROC AUC on the pooled 254 test examples.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from hansa.data import Examples, heart_disease
from hansa.distributed import bagging, cyclic, directed_ring, run, star
from hansa.training.xgboost_trees import XGBoostTrees

PARAMETERS = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.1}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    folder = parser.parse_args().data / "heart_disease"
    hospitals = [heart_disease.as_measured(folder, hospital) for hospital in heart_disease.HOSPITALS]
    shares = [split.train for split in hospitals]
    joined, test = pooled(shares), pooled([split.test for split in hospitals])

    def of(parts: list[Examples]) -> Callable[[Any], tuple[Any, Any]]:
        return lambda client: tuple(parts[client.index])

    print("| rounds | | trees | accuracy | AUC |\n|---|---|---|---|---|")
    for rounds in (25, 50, 100):
        trees = XGBoostTrees(PARAMETERS)
        rows: list[tuple[str, int, list[bytes]]] = [
            ("joined rows", rounds, [last(bagging(trees, of([joined]), rounds=rounds), 1)]),
            ("bagging", 4 * rounds, [last(bagging(trees, of(shares), rounds=rounds), 4)]),
            ("in turn", rounds, [bytes(run(cyclic(trees, of(shares), rounds=rounds), directed_ring(4)).results[0])]),
            ("alone, mean of 4", rounds, [last(bagging(trees, of([part]), rounds=rounds), 1) for part in shares]),
        ]
        for name, count, ensembles in rows:
            said = [trees.predict(ensemble, test.x) for ensemble in ensembles]
            accuracy = np.mean([(np.rint(each) == test.y).mean() for each in said])
            auc = np.mean([roc_auc_score(test.y, each) for each in said])
            print(f"| {rounds} | {name} | {count} | {accuracy:.3f} | {auc:.3f} |", flush=True)


def pooled(parts: list[Examples]) -> Examples:
    """All of them."""
    return Examples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def last(program: Any, clients: int) -> bytes:
    """The ensemble of a server with so many clients."""
    return bytes(run(program, star(1 + clients)).results[0])


if __name__ == "__main__":
    main()
