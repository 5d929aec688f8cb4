"""Four hospitals learn together who has a heart disease, by logistic regression; no record leaves its hospital."""

from pathlib import Path

import hansa
from hansa.data import Split, heart_disease
from hansa.training.numpy import NumpyTrainer, logistic_regression

app = hansa.App(trainer=NumpyTrainer(logistic_regression(13), learning_rate=0.005, batch_size=4, steps=100))

BESIDE = [folder / "shared" / "data" / "heart_disease" for folder in Path(__file__).resolve().parents]


@app.data
def patients(client: hansa.ClientInfo) -> Split:
    """The records of one hospital, from the folder that its owner set, or from the first place where there are some."""
    places = [Path(client.settings.get("data", "data/heart_disease")), *BESIDE]
    folder = next((place for place in places if place.is_dir()), places[0])
    return heart_disease.read_hospital(folder, client.index)
