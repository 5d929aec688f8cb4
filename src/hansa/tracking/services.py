"""Trackers of other projects, each an extra of its own: TensorBoard, MLflow, Weights & Biases."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hansa.errors import ConfigError, MissingExtraError
from hansa.messages import RunSpec

__all__ = ["MLflow", "TensorBoard", "WeightsAndBiases"]


_REFUSED = re.compile(r"[^\w\-. :/]")
"""What MLflow has in no name of a metric."""


class TensorBoard:
    """`tensorboard:FOLDER`: event files for `tensorboard --logdir FOLDER`, with `train/loss` for `train.loss`."""

    def __init__(self, target: str) -> None:
        """target: the folder; `runs` where it is empty."""
        try:
            from tensorboardX import SummaryWriter  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingExtraError("the tracker tensorboard", "tensorboard") from error
        self._make = SummaryWriter
        self._folder = target or "runs"
        self._writer: Any = None

    def begin(self, spec: RunSpec, clients: int) -> None:
        """See `hansa.tracking.Tracker`."""
        self._writer = self._make(logdir=self._folder)
        self._writer.add_text("run", f"```json\n{json.dumps({**asdict(spec), 'clients': clients}, indent=1)}\n```", 0)

    def round(self, number: int, metrics: Mapping[str, float]) -> None:
        """See `hansa.tracking.Tracker`."""
        for name, value in metrics.items():
            self._writer.add_scalar(name.replace(".", "/", 1), value, number)
        self._writer.flush()

    def end(self, *, failed: bool) -> None:
        """See `hansa.tracking.Tracker`."""
        del failed
        if self._writer is not None:
            self._writer.close()


class MLflow:
    """`mlflow:URI`: a run of the experiment that is called as the project, at a tracking server or in a database."""

    def __init__(self, target: str) -> None:
        """target: a tracking URI, for example `http://127.0.0.1:5000` or `sqlite:///mlflow.db`; empty: MLflow's own."""
        try:
            from mlflow.exceptions import MlflowException  # noqa: PLC0415 - an extra
            from mlflow.tracking import MlflowClient  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingExtraError("the tracker mlflow", "mlflow") from error
        self._refusal: type[Exception] = MlflowException
        try:
            self._client: Any = MlflowClient(tracking_uri=target or None)
        except MlflowException as error:
            raise _refused("MLflow", target, error) from error
        self._target = target
        self._run = ""

    def begin(self, spec: RunSpec, clients: int) -> None:
        """See `hansa.tracking.Tracker`."""
        try:
            self._begin(spec, clients)
        except self._refusal as error:
            raise _refused("MLflow", self._target, error) from error

    def _begin(self, spec: RunSpec, clients: int) -> None:
        found = self._client.get_experiment_by_name(spec.project)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(spec.project)
        self._run = self._client.create_run(experiment, run_name=spec.name).info.run_id
        for name, value in {**_flat(asdict(spec)), "clients": clients}.items():
            self._client.log_param(self._run, name, value)

    def round(self, number: int, metrics: Mapping[str, float]) -> None:
        """See `hansa.tracking.Tracker`."""
        for name, value in metrics.items():
            self._client.log_metric(self._run, _REFUSED.sub("_", name), value, step=number)

    def end(self, *, failed: bool) -> None:
        """See `hansa.tracking.Tracker`."""
        if self._run:
            self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


class WeightsAndBiases:
    """`wandb:PROJECT`: a run there; with WANDB_MODE=offline in a folder, which `wandb sync` sends later."""

    def __init__(self, target: str) -> None:
        """target: the project; where it is empty, that of the run."""
        try:
            import wandb  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingExtraError("the tracker wandb", "wandb") from error
        self._init: Any = wandb.init
        self._refusal: type[Exception] = wandb.Error
        self._project = target
        self._run: Any = None

    def begin(self, spec: RunSpec, clients: int) -> None:
        """See `hansa.tracking.Tracker`."""
        project = self._project or spec.project
        try:
            self._run = self._init(
                project=project, name=spec.name, config={**asdict(spec), "clients": clients}, dir=str(Path.cwd())
            )
        except self._refusal as error:
            raise _refused("Weights & Biases", project, error) from error

    def round(self, number: int, metrics: Mapping[str, float]) -> None:
        """See `hansa.tracking.Tracker`."""
        self._run.log(dict(metrics), step=number)

    def end(self, *, failed: bool) -> None:
        """See `hansa.tracking.Tracker`."""
        if self._run is not None:
            self._run.finish(exit_code=int(failed))


def _refused(service: str, target: str, error: Exception) -> ConfigError:
    """What a service says of where numbers were to go, before the first round."""
    return ConfigError(f"{service} does not take the numbers of a run at {target!r}: {' '.join(str(error).split())}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Mappings in mappings as names with dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
