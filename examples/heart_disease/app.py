"""Four hospitals learn together who has a heart disease, by logistic regression; no record leaves its hospital."""

import hansa
from hansa.data import Split, heart_disease
from hansa.training.numpy import NumpyTrainer, logistic_regression

app = hansa.App(trainer=NumpyTrainer(logistic_regression(13), learning_rate=0.005, batch_size=4, steps=100))


@app.data
def patients(client: hansa.ClientInfo) -> Split:
    """The records of one hospital: Cleveland, Hungary, Switzerland or Long Beach, by the client's number."""
    folder = client.settings.get("data", "data/heart_disease")
    return heart_disease.read_hospital(folder, heart_disease.HOSPITALS[client.index])
