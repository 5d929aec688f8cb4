"""Owners of handwritten digits, each with its own mix of labels, train one scikit-learn classifier."""

import numpy as np
from sklearn.linear_model import SGDClassifier

import hansa
from hansa.data import Examples, Split, digits, partition
from hansa.training.sklearn import SklearnTrainer

DIGITS = digits.read()

classifier = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.1)
app = hansa.App(trainer=SklearnTrainer(classifier, num_features=64, classes=range(10), epochs=2))


@app.data
def share(client: hansa.ClientInfo) -> Split:
    """One owner's images: every owner draws the same partition, and keeps its own part of it."""
    return Split(train=part_of(DIGITS.train, client), test=part_of(DIGITS.test, client))


def part_of(examples: Examples, client: hansa.ClientInfo) -> Examples:
    """This client's part of examples that are dealt with a label mix ~ Dir(0.5)."""
    parts = partition.dirichlet(examples.y, client.total, alpha=0.5, rng=np.random.default_rng(0))
    return examples.take(parts[client.index])
