"""Local work with JAX: from tasks to rows of a stack, and back to updates. One client alone is a stack of one."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from hansa.arrays import Array, Arrays, delta_dtype, stacked
from hansa.errors import AppError, InputError
from hansa.messages import GradientCorrection, Metrics, Task, Update, Updates
from hansa.training.jax_distance import Distances
from hansa.training.jax_programs import Fixed, Form, Leaves, Programs, State
from hansa.training.jax_setup import Batch as Examples
from hansa.training.jax_setup import JaxSetup
from hansa.training.local import Batch, Filled, count, evaluation_examples, filled, padded, training_examples

__all__ = ["JaxStacks", "Work", "prepare"]

_CACHE_BYTES = 512 * 1024
"""Of the models in one stack on a CPU: they stay in its cache from step to step."""

_ROWS = 16
"""Of a stack on a CPU, at most: more bring nothing, and each stack is padded to it."""

_MEMORY = 256 * 2**20
"""Bytes of all clients that are trained at once."""

_BLOCK_BYTES = 32 * 2**20
"""Of models and examples that the steps of one block read, roughly: progress is reported between blocks."""

_STEPS = 32
"""In one block, at most."""

_FEW = 32
"""Examples in a batch that cost about as much as one."""

_MODELS_PER_CLIENT = 8
"""For each parameter: it, its gradient, the result twice, two of an optimizer, two of a correction."""

_NO_CONTRAST = "the algorithm compares representations with those of other models"


@dataclass(frozen=True, slots=True)
class _Client:
    """One row of a stack."""

    model: Arrays
    leaves: Mapping[str, Array]
    correction: GradientCorrection | None
    x: Array
    y: Array
    key: npt.NDArray[np.uint32]
    """Of its random numbers in training."""

    @property
    def kind(self) -> Hashable:
        """Of its examples."""
        return self.x.shape[1:], self.x.dtype, self.y.shape[1:], self.y.dtype

    def alike(self, batch: int) -> Hashable:
        """Clients in one stack have the same; batch: of `_room_for`."""
        return batch, self.kind, Form.of(1, self.correction, full=False), self.proximal, self.sharpness

    @property
    def proximal(self) -> float:
        """μ of the correction."""
        return self.correction.proximal if self.correction else 0.0

    @property
    def sharpness(self) -> float:
        """ρ of the correction."""
        return self.correction.sharpness if self.correction else 0.0


class _Stack:
    """The models of some clients on the device, a row for each, and their steps so far."""

    def __init__(
        self, work: "Work", clients: Sequence[_Client], rows: int, examples: tuple[Array, Array], *, full: bool
    ) -> None:
        """rows: at least as many as clients; those that are left have the first client's model, and take no step.

        examples: those that steps are taken on, of at least these clients.
        """
        self._clients = clients
        self._examples = examples
        self._rows = rows
        self._form = Form.of(rows, clients[0].correction, full=full)
        self._block = work.programs.block(self._form)
        names = set(work.setup.tree.trained)
        leaves = {name: self._stacked([each.leaves[name] for each in clients]) for name in clients[0].leaves}
        trained = {name: leaf for name, leaf in leaves.items() if name in names}
        offsets = [each.correction.offset for each in clients if each.correction and each.correction.offset]
        self._fixed = Fixed(
            others={name: leaf for name, leaf in leaves.items() if name not in names},
            start=trained if self._form.proximal or self._form.anchored else {},
            offset={name: self._stacked([each[name] for each in offsets]) for name in trained if offsets},
            proximal=np.float32(clients[0].proximal),
            sharpness=np.float32(clients[0].sharpness),
            key=self._stacked([each.key for each in clients]),
        )
        self._state = State(trained, work.programs.begin(self._form)(trained))
        self._taken = 0
        self._losses: list[tuple[Any, npt.NDArray[np.int32]]] = []

    def take(self, steps: Sequence[Filled], room: int) -> None:
        """Take the next steps of each client, at most `room`; the device may not be done with them afterwards.

        steps: indices among the stack's examples.
        """
        longest, batch = max(len(each[1]) for each in steps), steps[0][0].shape[1]
        chosen = np.zeros((longest, self._rows, batch), np.int64)
        counts = np.zeros((room, self._rows), np.int32)
        for row, (index, of_step) in enumerate(steps):
            chosen[: len(index), row] = index
            counts[: len(index), row] = of_step
        x, y = (_taken(part, chosen, room) for part in self._examples)
        parts = (x, y, counts) if self._rows > 1 else (x[:, 0], y[:, 0], counts[:, 0])
        numbers = np.int32(self._taken), np.int32(longest)
        self._state, losses = self._block(self._state, self._fixed, numbers, Examples(*parts))
        self._taken += longest
        self._losses.append((losses, counts))

    def wait(self) -> None:
        """Until the device is done."""
        jax.block_until_ready(self._state)  # type: ignore[no-untyped-call]  # JAX leaves it unannotated

    @property
    def results(self) -> tuple[dict[str, Array], npt.NDArray[np.float64]]:
        """(trained tensors, a row for each client; its mean loss over all steps); waits for the device."""
        trained = {name: np.asarray(leaf) for name, leaf in self._state.trained.items()}
        if self._rows == 1:
            trained = {name: leaf[np.newaxis] for name, leaf in trained.items()}
        totals, seen = np.zeros(self._rows), np.zeros(self._rows)
        for losses, counts in self._losses:
            means = np.where(counts > 0, np.asarray(losses, np.float64).reshape(counts.shape), 0.0)
            totals += (means * counts).sum(0)
            seen += counts.sum(0)
        count = len(self._clients)
        return trained, totals[:count] / seen[:count]

    def _stacked(self, arrays: Sequence[Array]) -> Array:
        return arrays[0] if self._rows == 1 else stacked([*arrays, *[arrays[0]] * (self._rows - len(arrays))])


class Work:
    """What one client does, and what many do at once."""

    def __init__(self, setup: JaxSetup) -> None:
        """setup: of the trainer."""
        self.setup = setup
        self.programs = Programs(setup)
        self._distances = Distances(setup)
        self._known: tuple[Arrays, Leaves] | None = None

    # ── one client ───────────────────────────────────────────────────────────────────────────────────────────────────

    def fit(self, model: Arrays, task: Task) -> Update:
        """See `Trainer.fit`."""
        client, work = self.client(model, task), self.setup.work
        may_fill = self.setup.obstacle((client.x, client.y)) is None
        with self.setup.on_device():
            stack = _Stack(self, [client], 1, (client.x, client.y), full=not may_fill)
            taken = 0
            for batch, batches in self._runs(work.batches(len(client.x), task), work.batch_size, may_fill=may_fill):
                room = self.room(client, batch)
                while some := list(islice(batches, room)):
                    stack.take([filled(some, batch)], room)
                    taken += len(some)
                    stack.wait()  # the next batch that is asked for reports progress
            trained, (loss,) = stack.results
        arrays = {name: trained[name][0] if name in trained else array for name, array in client.model.items()}
        return Update(arrays, len(client.x), {"loss": loss}, step_sum=self.distances(client, taken))

    def gradient(self, model: Arrays, task: Task) -> Update:
        """See `Trainer.gradient`."""
        client, size = self.client(model, task), self.setup.evaluation_batch_size
        may_fill = self.setup.obstacle((client.x, client.y)) is None
        with self.setup.on_device():
            batches = self._runs(self.setup.neighbours(len(client.x), task), size, may_fill=may_fill)
            steps = [filled([each], batch) for batch, run in batches for each in run]
            ((sums, loss),) = self.gradients([client], [steps], 1, full=not may_fill)
        return self.as_gradient(client, sums, loss)

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """See `Trainer.evaluate`."""
        x, y = self.setup.examples(evaluation_examples(task))
        leaves = self.setup.tree.leaves(model)
        with self.setup.on_device():
            if self.setup.obstacle((x, y)) is None:
                found = self.of_each(leaves, x, y)
                list(self.setup.neighbours(len(x), task))
                return Metrics({name: float(values.mean()) for name, values in found.items()}, len(x))
            measure, sums = self.programs.measured(each=False), dict[str, float]()
            for batch in self.setup.neighbours(len(x), task):
                for name, value in measure(leaves, x[batch], y[batch]).items():
                    sums[name] = sums.get(name, 0.0) + float(value) * count(batch)
        return Metrics({name: total / len(x) for name, total in sums.items()}, len(x))

    def _runs(
        self, batches: Iterable[Batch], batch_size: int | None, *, may_fill: bool
    ) -> Iterator[tuple[int, Iterator[Batch]]]:
        """Batches in a row that go through one program, and how large they are there; one that is smaller is filled."""
        if not may_fill:
            yield from groupby(batches, count)
            return
        given = iter(batches)
        first = next(given)  # no batch is larger
        yield _room_for(count(first), batch_size), chain((first,), given)

    # ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def client(self, model: Arrays, task: Task) -> _Client:
        """A client, and the random numbers that it draws beside its batches."""
        if task.correction is not None and task.correction.contrast is not None:
            raise AppError("this algorithm compares representations, which JaxTrainer does not know: use TorchTrainer")
        if task.correction is not None and task.correction.penalty is not None:
            raise AppError("this algorithm adds a term to the loss that is written in PyTorch: use TorchTrainer")
        x, y = self.setup.examples(training_examples(task))
        return _Client(model, self._leaves(model), task.correction, x, y, self.key(task))

    def _leaves(self, model: Arrays) -> Leaves:
        """As `Tree.leaves`; the last ones are kept, since most clients of a round begin with one model."""
        if self._known is None or self._known[0] is not model:
            self._known = model, self.setup.tree.leaves(model)
        return self._known[1]

    def key(self, task: Task) -> npt.NDArray[np.uint32]:
        """The random key of a task; nothing is drawn where the model asks for none."""
        return task.rng.integers(2**32, size=2, dtype=np.uint32) if self.setup.draws else np.zeros(2, np.uint32)

    def room(self, client: _Client, batch: int, rows: int = 1) -> int:
        """Steps in a block, by what one of them reads: a power of two."""
        examples = batch * (client.x[:1].nbytes + client.y[:1].nbytes)
        fits = _BLOCK_BYTES // (rows * (self.setup.tree.nbytes + examples) + 1)
        return 1 << (max(1, min(_STEPS, fits)).bit_length() - 1)

    def gradients(
        self, clients: Sequence[_Client], steps: Sequence[Sequence[Filled]], rows: int, *, full: bool
    ) -> list[tuple[Leaves, float]]:
        """(gradient, loss) of each client over all of its batches; steps: one for each batch."""
        form = Form(rows, full)
        program = self.programs.gradient(form)
        everybody = [*clients, *[clients[0]] * (rows - len(clients))]

        def stacked(parts: Sequence[Any]) -> Any:
            return np.stack(parts) if rows > 1 else parts[0]

        leaves = {name: stacked([each.leaves[name] for each in everybody]) for name in clients[0].leaves}
        trained = {name: leaves.pop(name) for name in self.setup.tree.trained}
        sums: Leaves = {name: np.zeros_like(leaf) for name, leaf in trained.items()}
        totals = np.zeros(rows)
        for number in range(max(map(len, steps))):
            now = [each[number] if number < len(each) else (each[0][0], np.zeros(1, np.int64)) for each in steps]
            now += now[:1] * (rows - len(clients))
            index, counts = [each[0][0] for each in now], np.array([each[1][0] for each in now], np.int32)
            shares = counts / [len(client.x) for client in everybody]
            x = stacked([client.x[each] for client, each in zip(everybody, index, strict=True)])
            y = stacked([client.y[each] for client, each in zip(everybody, index, strict=True)])
            batch, share = Examples(x, y, stacked(list(counts))), stacked(list(shares))
            sums, losses = program(sums, (trained, leaves), batch, share)
            totals += np.asarray(losses, np.float64).reshape(-1) * shares
        arrays = {name: np.asarray(total) for name, total in sums.items()}
        if rows == 1:
            return [(arrays, float(totals[0]))]
        return [({n: total[row] for n, total in arrays.items()}, float(totals[row])) for row in range(len(clients))]

    def of_each(self, leaves: Mapping[str, Array], x: Array, y: Array) -> dict[str, Array]:
        """Each measure of each example, in batches that are filled up."""
        parts: dict[str, list[Array]] = {}
        measure, most = self.programs.measured(each=True), self.setup.evaluation_batch_size
        for start in range(0, len(x), most):
            size = min(most, len(x) - start)
            (index,), _ = filled([slice(start, start + size)], _room_for(size, most))
            for name, values in measure(leaves, x[index], y[index]).items():
                parts.setdefault(name, []).append(np.asarray(values[:size], np.float64))
        return {name: np.concatenate(values) for name, values in parts.items()}

    def distances(self, client: _Client, steps: int) -> Mapping[str, float]:
        """`Update.step_sum` of a client after so many steps."""
        frozen = client.correction.frozen if client.correction else frozenset()
        return self._distances.after(steps, client.proximal, frozen)

    def as_gradient(self, client: _Client, sums: Leaves, loss: float) -> Update:
        """A gradient in the structure of the model."""
        arrays = {
            name: sums[name].astype(delta_dtype(array.dtype))
            if name in sums
            else np.zeros(array.shape, delta_dtype(array.dtype))
            for name, array in client.model.items()
        }
        return Update(arrays, len(client.x), {"loss": loss})


def _room_for(largest: int, batch_size: int | None) -> int:
    """Examples in a batch that is filled up, of a client whose largest batch has so many: few sizes are compiled."""
    if batch_size is None:
        return padded(max(largest, _FEW), None)
    size = _FEW
    while size < largest:
        size *= 4
    return min(size, batch_size)


def _taken(examples: Array, chosen: npt.NDArray[np.int64], room: int) -> Array:
    """Examples by their indices, in shape (room, *chosen.shape[1:], …); what is beyond them is not looked at."""
    found = np.empty((room, *chosen.shape[1:], *examples.shape[1:]), examples.dtype)
    # Every index is of an example; "clip" spares numpy a copy that it would make for the sake of an error.
    np.take(examples, chosen, axis=0, out=found[: len(chosen)], mode="clip")
    return found


def _pooled(clients: Sequence[_Client]) -> tuple[dict[Hashable, tuple[Array, Array]], list[int]]:
    """(the examples of all clients of a kind, one client after the other; where each client's begin)."""
    alike: dict[Hashable, list[_Client]] = {}
    ends: dict[Hashable, int] = {}
    starts = []
    for client in clients:
        alike.setdefault(client.kind, []).append(client)
        starts.append(ends.get(client.kind, 0))
        ends[client.kind] = starts[-1] + len(client.x)
    pools = {
        kind: (np.concatenate([each.x for each in some]), np.concatenate([each.y for each in some]))
        for kind, some in alike.items()
    }
    return pools, starts


# ── many clients at once ─────────────────────────────────────────────────────────────────────────────────────────────


def prepare(work: Work, model: Arrays, task: Task) -> "JaxStacks | str":
    """What can train many clients at once; or why nothing can, as the end of a sentence.

    model, task: those of one client. Nothing of the task is drawn.
    """
    setup, correction = work.setup, task.correction
    if correction is not None and correction.contrast is not None:
        return _NO_CONTRAST
    x, y = setup.examples(training_examples(task))
    setup.tree.leaves(model)
    why = setup.obstacle((x, y))
    if why is not None:
        return why
    nbytes = setup.tree.nbytes
    rows = 0
    if setup.platform == "cpu":
        rows = 1 << (max(1, min(_ROWS, _CACHE_BYTES // max(1, nbytes))).bit_length() - 1)
        rows = 1 if setup.convolves((x, y)) else rows
    batch = min(len(x), setup.work.batch_size or len(x))
    examples = (x[:1].nbytes + y[:1].nbytes) * batch * setup.work.planned(len(x))
    most = max(1, _MEMORY // (_MODELS_PER_CLIENT * nbytes + 2 * examples))
    return JaxStacks(work, rows, most if most < rows else most - most % max(1, rows))


@dataclass(frozen=True, slots=True)
class JaxStacks:
    """A `hansa.algorithm.Vectorized` of a `JaxTrainer`."""

    work: Work
    rows: int
    """Of every stack, so that a client's bits depend on no other; 0: as many as there are clients, on a GPU."""
    most: int
    """Clients at once, by their memory."""
    share: int = 0
    """JAX has threads of its own."""

    @property
    def on_cpu(self) -> bool:
        """As of `hansa.algorithm.Vectorized`."""
        return self.work.setup.platform == "cpu"

    def fit(self, models: Sequence[Arrays], tasks: Sequence[Task]) -> Updates:
        """As `JaxTrainer.fit`, for each of them."""
        planned = self.work.setup.work

        def room(num_examples: int) -> int:
            return _room_for(planned.largest(num_examples), planned.batch_size)

        clients = [self._client(model, task) for model, task in zip(models, tasks, strict=True)]
        sizes = [room(len(client.x)) for client in clients]
        steps = planned.drawn([len(client.x) for client in clients], tasks, room)
        with self.work.setup.on_device():
            stacks = list(self._stacks(clients, [len(counts) for _, counts in steps], sizes))
            pools, starts = _pooled(clients)
            steps = [(index + start, counts) for (index, counts), start in zip(steps, starts, strict=True)]
            made = [
                _Stack(self.work, [clients[n] for n in some], rows, pools[clients[some[0]].kind], full=False)
                for some, rows, _ in stacks
            ]
            # Breadth first: stacks that wait for no result of each other keep all cores busy.
            walks = [
                self._taken(stack, clients[numbers[0]], [steps[n] for n in numbers], rows, batch)
                for stack, (numbers, rows, batch) in zip(made, stacks, strict=True)
            ]
            while walks:
                walks = [walk for walk in walks if next(walk, None) is not None]
        trained = {name: np.empty((len(clients), *leaf.shape), leaf.dtype) for name, leaf in clients[0].leaves.items()}
        losses = np.empty(len(clients))
        for stack, (numbers, _, _) in zip(made, stacks, strict=True):
            leaves, losses[numbers] = stack.results
            for name, rows in leaves.items():
                trained[name][numbers] = rows[: len(numbers)]
        names = self.work.setup.tree.trained
        return Updates(
            {name: trained[name] if name in names else stacked([m[name] for m in models]) for name in models[0]},
            [len(client.x) for client in clients],
            [{"loss": loss} for loss in losses.tolist()],
            [self.work.distances(client, len(counts)) for client, (_, counts) in zip(clients, steps, strict=True)],
        )

    def gradient(self, models: Sequence[Arrays], tasks: Sequence[Task]) -> list[Update]:
        """As `JaxTrainer.gradient`, for each of them."""
        setup = self.work.setup
        clients = [self._client(model, task) for model, task in zip(models, tasks, strict=True)]
        batches = [list(setup.neighbours(len(c.x), task)) for c, task in zip(clients, tasks, strict=True)]
        found: dict[int, Update] = {}
        with setup.on_device():
            sizes = [_room_for(count(each[0]), setup.evaluation_batch_size) for each in batches]
            for numbers, rows, batch in self._stacks(clients, list(map(len, batches)), sizes):
                some = [clients[n] for n in numbers]
                steps = [[filled([each], batch) for each in batches[n]] for n in numbers]
                for number, done in zip(numbers, self.work.gradients(some, steps, rows, full=False), strict=True):
                    found[number] = self.work.as_gradient(clients[number], *done)
        return [found[number] for number in range(len(clients))]

    def evaluate(self, model: Arrays, tasks: Sequence[Task]) -> list[Metrics]:
        """As `JaxTrainer.evaluate`, for each of them: all examples in common batches."""
        setup = self.work.setup
        leaves = setup.tree.leaves(model)
        parts = [setup.examples(evaluation_examples(task)) for task in tasks]
        if len({(x.dtype, y.dtype) for x, y in parts}) > 1:
            raise InputError("clients have examples of several dtypes, which have no common batch")
        with setup.on_device():
            x, y = (np.concatenate(part) for part in zip(*parts, strict=True))
            values = self.work.of_each(leaves, x, y)
        ends = np.cumsum([len(x) for x, _ in parts])
        found = []
        for end, (mine, _), task in zip(ends, parts, tasks, strict=True):
            list(setup.neighbours(len(mine), task))
            means = {name: float(each[end - len(mine) : end].mean()) for name, each in values.items()}
            found.append(Metrics(means, len(mine)))
        return found

    def _client(self, model: Arrays, task: Task) -> _Client:
        client = self.work.client(model, task)
        why = self.work.setup.obstacle((client.x, client.y))
        if why is not None:
            raise AppError(f"{task.client.name} cannot train with others: {why}")
        return client

    def _stacks(
        self, clients: Sequence[_Client], lengths: Sequence[int], sizes: Sequence[int]
    ) -> Iterator[tuple[list[int], int, int]]:
        """(clients, rows, examples in a batch): clients that are alike share a stack, those with more steps first.

        lengths: how many steps each takes; sizes: of its batches, as `_room_for`.
        """
        alike: dict[Hashable, list[int]] = {}
        for number in sorted(range(len(clients)), key=lambda number: -lengths[number]):
            alike.setdefault(clients[number].alike(sizes[number]), []).append(number)
        for numbers in alike.values():
            rows = self.rows or 1 << (len(numbers) - 1).bit_length()
            for start in range(0, len(numbers), rows):
                some = numbers[start : start + rows]
                yield some, rows, sizes[some[0]]

    def _taken(self, stack: _Stack, client: _Client, steps: Sequence[Filled], rows: int, batch: int) -> Iterator[bool]:
        """Take all steps of a stack, block by block. client: one of it."""
        room = self.work.room(client, batch, rows)
        for start in range(0, max(len(counts) for _, counts in steps), room):
            stack.take([(index[start : start + room], counts[start : start + room]) for index, counts in steps], room)
            yield True
