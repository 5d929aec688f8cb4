"""Four hospitals learn together who has a heart disease, by logistic regression; no record leaves its hospital."""

from pathlib import Path

import hansa
from hansa.data import Split, heart_disease
from hansa.errors import InputError
from hansa.training.numpy import NumpyTrainer, logistic_regression

app = hansa.App(trainer=NumpyTrainer(logistic_regression(13), learning_rate=0.005, batch_size=4, steps=100))

BESIDE = [folder / "shared" / "data" / "heart_disease" for folder in Path(__file__).resolve().parents]


@app.data
def patients(client: hansa.ClientInfo) -> Split:
    """The records of one hospital, from the folder that its owner set, or from the first place where there are some."""
    places = [Path(client.settings.get("data", "data/heart_disease")), *BESIDE]
    folder = next((place for place in places if place.is_dir()), places[0])
    return heart_disease.read_hospital(folder, hospital(client))


def hospital(client: hansa.ClientInfo) -> str | int:
    """The one that the owner named, else by number, which clients of a network do not have unless they are given it."""
    if name := client.settings.get("hospital"):
        return name
    if client.total == 1:
        raise InputError(
            f"{client.name} does not say which hospital it is; `hansa client start --set hospital=va` does, "
            f"as do cleveland, hungarian and switzerland; a simulation needs `--clients {len(heart_disease.HOSPITALS)}`"
        )
    return client.index
