"""Statistics, clusters and trees beside the same on the joined rows: numpy and scikit-learn.

Every number is of data that scikit-learn brings. What came out is in docs/reference/numbers.md.
"""

import statistics
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss

import hansa
from hansa.algorithms.hist_gbdt import scores
from hansa.data import digits
from hansa.training.clusters import KMeansTrainer
from hansa.training.tables import TableTrainer, bin_edges
from hansa.training.trees import BoostedTreesTrainer, predict

CLIENTS = 5
NEVER = hansa.EvaluationRules(every=0)


def shared(x: Any, y: Any, seed: int) -> list[tuple[Any, Any]]:
    """Rows drawn to clients at random."""
    owner = np.random.default_rng(seed).integers(0, CLIENTS, len(x))
    return [(x[owner == k], y[owner == k]) for k in range(CLIENTS)]


def tables(x: Any, rounds: int, quantiles: Any) -> hansa.Arrays:
    """Statistics of the columns."""
    names = [f"{k}" for k in range(x.shape[1])]
    app = hansa.App(TableTrainer(names, quantiles=quantiles))
    shares = shared(x, x, 0)
    app.data(lambda client: dict(zip(names, shares[client.index][0].T, strict=True)))
    return hansa.simulate(app, clients=CLIENTS, algorithm="statistics", rounds=rounds, progress=False).model


def print_statistics() -> None:
    """How many of the 30 columns' statistics have the bits of the joined table's."""
    x, _ = load_breast_cancer(return_X_y=True)
    levels = (0, 0.25, 0.5, 0.75, 1)
    print("| rounds | means exact | variances exact | quantiles exact | largest relative error of a quantile |")
    print("|---|---|---|---|---|")
    for rounds in (1, 2, 3, 4, 8):
        model = tables(x, rounds, levels)
        means = sum(model[f"{k}/mean"] == statistics.mean(x[:, k].tolist()) for k in range(30))
        variances = sum(model[f"{k}/variance"] == statistics.variance(x[:, k].tolist()) for k in range(30))
        true = np.quantile(x, levels, axis=0, method="inverted_cdf").T
        low, high = np.stack([model[f"{k}/quantiles"][:, 1:] for k in range(30)]).transpose(2, 0, 1)
        exact = int(((low == true) & (high == true)).sum())
        error = float((np.maximum(high - true, true - low)[true > 0] / true[true > 0]).max())
        print(f"| {rounds} | {means} of 30 | {variances} of 30 | {exact} of 150 | {error:.2g} |", flush=True)


def print_clusters() -> None:
    """Mean ‖x − c‖² on the digits, by how they are spread."""
    split = digits.read()
    x = split.train.x.astype(float)
    print("\n| k-means, k = 10, digits | mean ‖x − c‖², mean of 5 seeds |\n|---|---|")
    for partition in ("iid", "dirichlet:0.5", "dirichlet:0.1"):
        found = [
            hansa.simulate("kmeans", model=KMeansTrainer(10, 64), data=split, partition=partition, clients=10,
                           rounds=20, seed=seed, evaluation=NEVER, progress=False).rounds[-1].metrics["loss"]
            for seed in range(5)
        ]  # fmt: skip
        print(f"| 10 clients, {partition} | {np.mean(found):.4f} |", flush=True)
    for starts in (1, 10):
        found = [KMeans(10, n_init=starts, random_state=seed).fit(x).inertia_ / len(x) for seed in range(5)]
        print(f"| scikit-learn, joined points, best of {starts} | {np.mean(found):.4f} |", flush=True)


def print_trees() -> None:
    """Accuracy and log loss on breast cancer, 5 splits."""
    x, y = load_breast_cancer(return_X_y=True)
    found: dict[str, list[tuple[float, float]]] = {"hansa, 5 clients": [], "scikit-learn, joined rows": []}
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(x))
        train, test = order[:400], order[400:]
        trainer = BoostedTreesTrainer(bin_edges(tables(x[train], 4, np.linspace(0, 1, 33))), trees=30, depth=3)
        app, shares = hansa.App(trainer), shared(x[train], y[train], seed)
        app.data(lambda client, shares=shares: shares[client.index])
        model = hansa.simulate(
            app, clients=CLIENTS, algorithm="hist-gbdt", rounds=trainer.rounds, evaluation=NEVER, progress=False
        ).model
        p = 1 / (1 + np.exp(-scores(model, x[test])[:, 0]))
        found["hansa, 5 clients"].append((float(np.mean(predict(model, x[test]) == y[test])), log_loss(y[test], p)))
        theirs = HistGradientBoostingClassifier(max_iter=30, max_depth=3, l2_regularization=1).fit(x[train], y[train])
        said = log_loss(y[test], theirs.predict_proba(x[test]))
        found["scikit-learn, joined rows"].append((theirs.score(x[test], y[test]), said))
    print("\n| boosted trees, 30 of depth 3, breast cancer | accuracy | log loss |\n|---|---|---|")
    for who, pairs in found.items():
        accuracy, loss = np.mean(pairs, axis=0)
        print(f"| {who} | {accuracy:.3f} | {loss:.3f} |", flush=True)


if __name__ == "__main__":
    print_statistics()
    print_clusters()
    print_trees()
