"""A spec becomes objects, or an error that says what it may be; and every random number has one source."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hansa
from hansa import run as choice
from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Algorithm, State
from hansa.algorithms.fedavg import fedavg
from hansa.arrays import Arrays
from hansa.errors import AppError, ConfigError
from hansa.messages import ClientInfo, EvaluationRules, Kind, Metrics, RoundRules, RunSpec, Update, Value
from hansa.run import derive_rng, names, plugin, resolve, slots_from_arrays, slots_to_arrays, suit
from hansa.wire import codec

FIVE = [f"client-{k}" for k in range(5)]


# ── resolve ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_default_spec_is_ten_rounds_of_fedavg_with_everybody() -> None:
    run = resolve(RunSpec())
    assert (run.algorithm.name, run.spec.rounds) == ("fedavg", 10)
    assert run.cohort(FIVE, 1).invited == tuple(FIVE)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rounds": 0}, "rounds is 0; it must be a whole number between 1 and 1000000"),
        ({"rounds": 10**6 + 1}, "rounds is 1000001; it must be a whole number between 1 and 1000000"),
        ({"rounds": "5"}, "rounds is '5'; it must be a whole number"),
        ({"rounds": 2.0}, "rounds is 2.0; it must be a whole number"),
        ({"rounds": True}, "rounds is True; it must be a whole number"),
        ({"seed": -1}, f"seed is -1; it must be a whole number between 0 and {2**63 - 1}"),
        ({"seed": 2**63}, f"seed is {2**63}; it must be"),
        ({"seed": None}, "seed is None; it must be"),
        ({"max_weight": 3}, "max_weight is 3; it must be a power of two, at most 2^40"),
        ({"max_weight": 1e3}, "max_weight is 1000.0; it must be a whole number"),
        ({"max_weight": 2**41}, f"max_weight is {2**41}; it must be a whole number between 1 and {2**40}"),
        ({"range_bits": 21}, "range_bits is 21; it must be a whole number between 0 and 20"),
        ({"evaluation": EvaluationRules(every=-1)}, "evaluation.every is -1; it must be a whole number between 0"),
        ({"evaluation": EvaluationRules(fraction=0)}, "evaluation.fraction is 0; it must be a number above 0"),
        ({"evaluation": EvaluationRules(fraction=1.5)}, "evaluation.fraction is 1.5; it must be a number above 0"),
        ({"evaluation": EvaluationRules(fraction=float("nan"))}, "evaluation.fraction is nan; it must be a number"),
        ({"evaluation": EvaluationRules(fraction="all")}, "evaluation.fraction is 'all'; it must be a number"),  # type: ignore[arg-type]
        ({"rules": RoundRules(quorum=2)}, "quorum is 2, but a round may open with min_clients = 1; raise min_clients"),
        ({"rules": RoundRules(selection="count")}, "count is not set"),
        ({"algorithm": "fedprox", "algorithm_options": {"mu": -1}}, "fedprox: mu is -1; it must be a number of at"),
        ({"algorithm": "fedprox", "algorithm_options": {"m": 1}}, "fedprox has no option 'm'; its options are mu"),
        ({"algorithm_options": {"mu": 1}}, "fedavg has no option 'mu'; it has none"),
        ({"algorithm_options": {"aggregator": 1}}, "fedavg has no option 'aggregator'; it has none"),
        ({"aggregator_options": {"uniform": "yes"}}, "mean: uniform is 'yes'; it must be true or false"),
        ({"aggregator_options": {"unifrom": True}}, "mean has no option 'unifrom'; its options are uniform"),
        ({"aggregator_options": {"max_weight": 8}}, "mean has no option 'max_weight'; its options are uniform"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_value_and_what_it_may_be(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(RunSpec(**settings))
    assert said in str(caught.value)


@pytest.mark.parametrize("settings", [{"rounds": 1}, {"rounds": 10**6}, {"seed": 2**63 - 1}, {"range_bits": 20}])
def test_the_ends_of_a_range_belong_to_it(settings: dict[str, int]) -> None:
    assert resolve(RunSpec(**settings)).spec == RunSpec(**settings)  # type: ignore[arg-type]


def test_an_unknown_algorithm_aggregator_or_policy_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"no 'mode' in hansa\.aggregators; there is: .*mean, median"):
        resolve(RunSpec(aggregator="mode"))
    with pytest.raises(ConfigError, match=r"no 'fedavgg' in hansa\.algorithms; there is: .*fedavg, fedavgm.*fedprox"):
        resolve(RunSpec(algorithm="fedavgg"))
    with pytest.raises(ConfigError, match=r"no 'some' in hansa\.policies; there is: all, count, cyclic, fraction"):
        resolve(RunSpec(rules=RoundRules(selection="some")))


def test_options_reach_the_algorithm() -> None:
    with_options = resolve(RunSpec(algorithm="fedadam", algorithm_options={"learning_rate": 0.5, "beta1": 0.0}))
    assert with_options.algorithm.name == "fedadam"
    state = with_options.start(Arrays({"w": [0.0]}))
    assert set(state.slots) == {"m", "v"}


def test_limits_and_options_reach_the_aggregator() -> None:
    spec = RunSpec(aggregator_options={"uniform": True}, max_weight=2**10, range_bits=3)
    assert resolve(spec).algorithm.aggregator == WeightedMean(max_weight=2**10, range_bits=3, uniform=True)
    assert resolve(RunSpec()).algorithm.aggregator == WeightedMean()


# ── plug-ins ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def required(aggregator: Any, *, share: float) -> Algorithm:
    return replace(fedavg(aggregator), name=f"required-{share}")


def anything(aggregator: Any, **options: object) -> Algorithm:
    return replace(fedavg(aggregator), name="-".join(options))


def cautious(*, max_weight: int, range_bits: int, most: int) -> WeightedMean:
    return WeightedMean(max_weight=min(max_weight, most), range_bits=range_bits)


def faulty(aggregator: Any) -> Algorithm:
    del aggregator
    return len(5)  # type: ignore[arg-type]  # a mistake of the plug-in's author


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Entry points as packages would bring them, beside those of hansa itself."""
    there_are: list[EntryPoint] = []
    real = choice.entry_points

    def entry_points(group: str) -> list[EntryPoint]:
        return [*real(group=group), *(point for point in there_are if point.group == group)]

    def install(name: str, value: str, group: str = "hansa.algorithms") -> None:
        there_are.append(EntryPoint(name, value, group))

    monkeypatch.setattr(choice, "entry_points", entry_points)
    choice._points.cache_clear()
    yield install
    choice._points.cache_clear()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """A module name under which this file can be imported."""
    monkeypatch.setitem(sys.modules, "plug_in_of_a_test", sys.modules[__name__])
    return "plug_in_of_a_test"


def test_what_is_installed_while_the_process_runs_is_found(installed: Callable[..., None], here: str) -> None:
    with pytest.raises(ConfigError):
        plugin("hansa.algorithms", "late")
    installed("late", f"{here}:anything")
    assert plugin("hansa.algorithms", "late") is anything
    assert "late" in names("hansa.algorithms")


def test_a_name_that_two_packages_claim_is_refused_and_one_that_is_listed_twice_is_not(
    installed: Callable[..., None], here: str
) -> None:
    installed("fedprox", "hansa.algorithms.fedprox:fedprox")
    installed("fedavg", f"{here}:anything")
    assert resolve(RunSpec(algorithm="fedprox")).algorithm.name == "fedprox"
    with pytest.raises(ConfigError, match=r"'fedavg' in hansa\.algorithms is each of hansa\..*, plug_in_of_a_test:any"):
        resolve(RunSpec())


@pytest.mark.parametrize("value", ["no_such_package:factory", "hansa.algorithms.fedavg:no_such_name"])
def test_a_plug_in_that_cannot_be_loaded_is_named_with_its_home(installed: Callable[..., None], value: str) -> None:
    installed("broken", value)
    with pytest.raises(ConfigError, match=rf"'broken' in hansa\.algorithms is {value}, which cannot be loaded: "):
        resolve(RunSpec(algorithm="broken"))


def test_a_required_option_is_asked_for_by_name(installed: Callable[..., None], here: str) -> None:
    installed("required", f"{here}:required")
    with pytest.raises(ConfigError, match="required needs the option 'share'"):
        resolve(RunSpec(algorithm="required"))
    given = RunSpec(algorithm="required", algorithm_options={"share": 0.5})
    assert resolve(given).algorithm.name == "required-0.5"


def test_a_plug_in_that_takes_any_option_is_given_it(installed: Callable[..., None], here: str) -> None:
    installed("anything", f"{here}:anything")
    spec = RunSpec(algorithm="anything", algorithm_options={"left": 1, "right": 2})
    assert resolve(spec).algorithm.name == "left-right"


def test_a_plugged_in_aggregator_is_given_the_limits_of_the_run_and_its_own_options(
    installed: Callable[..., None], here: str
) -> None:
    installed("cautious", f"{here}:cautious", "hansa.aggregators")
    with pytest.raises(ConfigError, match="cautious needs the option 'most'; give it with aggregator_options"):
        resolve(RunSpec(aggregator="cautious"))
    given = RunSpec(aggregator="cautious", aggregator_options={"most": 4}, algorithm="fedprox")
    assert resolve(given).algorithm.aggregator == WeightedMean(max_weight=4)


def test_a_mistake_in_a_plug_in_keeps_its_own_traceback(installed: Callable[..., None], here: str) -> None:
    installed("faulty", f"{here}:faulty")
    with pytest.raises(TypeError, match="has no len"):
        resolve(RunSpec(algorithm="faulty"))


# ── random numbers ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, "init"), [2307343583, 3690243150, 4144162942]),
        ((0, "selection", 1), [3701130422, 748977695, 2953837534]),
        ((7, "train", 3, "client-2"), [2774621151, 262727065, 1593447134]),
        ((2**63 - 1, "evaluation", 10), [3862095640, 667980143, 2492177178]),
    ],
)
def test_the_same_seed_purpose_and_keys_draw_these_numbers_in_every_release(
    arguments: tuple[Any, ...], expected: list[int]
) -> None:
    assert derive_rng(*arguments).integers(0, 2**32, 3).tolist() == expected


def test_each_seed_purpose_and_key_draws_numbers_of_its_own() -> None:
    all_of_them = [
        (0, "train"),
        (1, "train"),
        (0, "evaluate"),
        (0, "train", 1),
        (0, "train", "1"),
        (0, "train", 11),
        (0, "train", 1, 1),
        (0, "train", 1, "client-1"),
        (0, "train", 1, "client-11"),
        (0, "train", 11, "client-1"),
        (0, "train", "client-1", 1),
        (10, "train", 1),
        (1, "0train", 1),
    ]
    drawn = {derive_rng(*arguments).bytes(16) for arguments in all_of_them}
    assert len(drawn) == len(all_of_them)


def test_a_number_of_numpy_is_the_key_that_it_equals() -> None:
    assert derive_rng(0, "train", np.int64(3)).bytes(8) == derive_rng(0, "train", 3).bytes(8)
    assert derive_rng(np.int64(4), "train", Kind.TRAIN).bytes(8) == derive_rng(4, "train", "train").bytes(8)


def test_streams_of_neighbouring_keys_are_not_correlated() -> None:
    drawn = np.stack([derive_rng(0, "train", number).standard_normal(4096) for number in range(20)])
    correlations = np.corrcoef(drawn)[~np.eye(20, dtype=bool)]
    assert np.abs(correlations).max() < 5 / 64  # the standard error is 1/√4096


def app_of_draws() -> hansa.App:
    """Every function tells what it drew."""
    app = hansa.App()
    app.model(lambda rng: {"w": rng.random(1)})
    app.data(lambda client: client.index)
    app.train(lambda model, task: Update(model, 1, {"drew": task.rng.random(), "data": task.data}))
    app.evaluate(lambda _, task: Metrics({"drew": task.rng.random()}, 1))
    app.central_evaluate(lambda _, rng: Metrics({"drew": rng.random()}, 1))
    return app


def test_every_part_of_a_run_draws_by_its_purpose_and_its_keys() -> None:
    run, app = resolve(RunSpec(seed=5, config={"steps": 3})), app_of_draws()
    client = ClientInfo("client-3", 3, 5)
    assert run.initial_model(app)["w"] == derive_rng(5, "init").random(1)
    training = run.task(app, client, 2, Kind.TRAIN, work=0.5)
    assert (training.round, training.data, training.work, training.config) == (2, 3, 0.5, {"steps": 3})
    update = run.train(app, Arrays({"w": [0.0]}), training)
    assert update.metrics == {"drew": derive_rng(5, "train", 2, "client-3").random(), "data": 3.0}
    evaluated = app.trainer.evaluate(Arrays({"w": [0.0]}), run.task(app, client, 2, Kind.EVALUATE))
    assert evaluated.values == {"drew": derive_rng(5, "evaluate", 2, "client-3").random()}
    central = run.central_metrics(app, Arrays({"w": [0.0]}), 2)
    assert central.values == {"drew": derive_rng(5, "central", 2).random()}


def test_a_cohort_is_drawn_from_the_seed_and_the_round_alone() -> None:
    spec = RunSpec(seed=1, rules=RoundRules(selection="count", count=2))
    cohorts = [resolve(spec).cohort(FIVE, number) for number in (1, 2, 3, 4)]
    assert cohorts == [resolve(spec).cohort(FIVE, number) for number in (1, 2, 3, 4)]
    assert len({cohort.invited for cohort in cohorts}) > 1
    other = resolve(replace(spec, seed=2))
    assert cohorts != [other.cohort(FIVE, number) for number in (1, 2, 3, 4)]


# ── evaluation ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("every", "evaluated"), [(0, []), (1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6, 7]), (7, [7]), (100, [7])]
)
def test_every_nth_round_and_the_last_are_evaluated(every: int, evaluated: list[int]) -> None:
    run = resolve(RunSpec(rounds=7, evaluation=EvaluationRules(every=every)))
    assert [number for number in range(1, 8) if run.evaluates(number)] == evaluated


def test_who_evaluates_is_a_sorted_sample_that_can_be_drawn_again() -> None:
    many = sorted(f"client-{k}" for k in range(100))
    run = resolve(RunSpec(evaluation=EvaluationRules(fraction=0.2), rules=RoundRules(selection="count", count=3)))
    first = run.evaluation_cohort(many, 1).invited
    assert len(first) == 20
    assert list(first) == sorted(set(first) & set(many))
    assert run.evaluation_cohort(many, 1).invited == first
    assert run.evaluation_cohort(many, 2).invited != first


def test_everybody_evaluates_by_default() -> None:
    assert resolve(RunSpec()).evaluation_cohort(FIVE, 1).invited == tuple(FIVE)


def test_an_app_is_asked_only_for_evaluations_that_it_has() -> None:
    app = hansa.App()
    app.train(print)
    assert suit(RunSpec(), app).evaluation == EvaluationRules(clients=False, central=False)
    assert suit(RunSpec(), app_of_draws()) == RunSpec()
    unwanted = RunSpec(evaluation=EvaluationRules(clients=False, central=False))
    assert suit(unwanted, app_of_draws()) == unwanted


def test_an_app_that_cannot_train_is_refused_before_anything_is_run() -> None:
    with pytest.raises(AppError, match=r"no train function: decorate one with @app\.train"):
        suit(RunSpec(), hansa.App())


# ── slots ────────────────────────────────────────────────────────────────────────────────────────────────────────────

slot_names = st.text(max_size=6) | st.sampled_from(["m", "a/b", "a%2Fb", "%", "/", ""])
tensors = st.dictionaries(st.text(min_size=1, max_size=6), st.just(np.float32([1, 2])) | st.just(np.int64(3)))


@given(st.dictionaries(slot_names, tensors.map(Arrays), max_size=4))
def test_slots_come_back_as_they_went_through_bytes(slots: dict[str, Arrays]) -> None:
    flat = slots_to_arrays(slots)
    assert slots_from_arrays(flat) == slots
    assert list(slots_from_arrays(flat)) == list(slots)


def test_a_slot_is_stored_under_a_name_that_people_can_read() -> None:
    slots = {"m": Arrays({"layer/weight": [1.0]}), "empty": Arrays()}
    flat = slots_to_arrays(slots)
    assert list(flat) == ["m/layer/weight", "empty/"]


def test_slots_without_tensors_survive_a_file(tmp_path: Any) -> None:
    state = resolve(RunSpec(algorithm="fedadam")).start(Arrays({"counts": np.int64([1, 2])}))
    codec.save(slots_to_arrays(state.slots), tmp_path / "state")
    assert State(state.params, 0, slots_from_arrays(codec.load(tmp_path / "state"))) == state


@pytest.mark.parametrize(
    ("algorithm", "options"), [("afl", {"num_clients": 3}), ("qfedavg", {"learning_rate": 0.1}), ("fednova", {})]
)
def test_an_algorithm_that_needs_a_mean_refuses_a_median(algorithm: str, options: dict[str, Value]):
    resolve(RunSpec(algorithm=algorithm, algorithm_options=options))
    with pytest.raises(ConfigError, match=f"{algorithm} sends .*makes sense only in a weighted mean"):
        resolve(RunSpec(algorithm=algorithm, algorithm_options=options, aggregator="median"))


@pytest.mark.parametrize("rules", [RoundRules(selection="count", count=6), RoundRules(enough=6)])
def test_rules_that_never_bring_enough_updates_for_f_are_refused(rules: RoundRules):
    spec = RunSpec(aggregator="krum", aggregator_options={"f": 2}, rules=rules)
    with pytest.raises(ConfigError, match=r"krum with \{'f': 2\} needs at least 7 updates in a round, and .* is 6"):
        resolve(spec)
    resolve(replace(spec, aggregator_options={"f": 1}))


def test_a_robust_aggregator_without_its_number_says_which_is_missing():
    with pytest.raises(ConfigError, match=r"krum needs the option 'f'; .*--set-aggregator f=…"):
        resolve(RunSpec(aggregator="krum"))


def test_weighted_rules_count_clients_alike_where_an_algorithm_asks_for_it():
    for name, options in (("geometric-median", {}), ("norm-bound", {"bound": 1.0})):
        spec = RunSpec(algorithm="scaffold", algorithm_options={"num_clients": 3}, aggregator=name)
        assert resolve(replace(spec, aggregator_options=options)).algorithm.aggregator.uniform is True
