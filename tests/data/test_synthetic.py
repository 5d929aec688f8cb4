import numpy as np
import pytest

from hansa.data import synthetic
from hansa.errors import InputError


def test_seed_0_gives_the_22_349_samples_of_the_paper() -> None:
    devices = synthetic.generate(1, 1, seed=0)
    assert len(devices) == 30
    assert sum(len(device.train.y) + len(device.test.y) for device in devices) == 22_349


def test_the_numbers_are_drawn_in_the_order_of_the_authors_generator() -> None:
    """The published recipe, step by step and sample by sample, for three devices."""
    rng = np.random.RandomState(0)
    sizes = rng.lognormal(4, 2, 3).astype(int) + 50
    u, spread = rng.normal(0, 0.5, 3), rng.normal(0, 2.0, 3)
    means = [rng.normal(spread[k], 1, 60) for k in range(3)]
    for k, device in enumerate(synthetic.generate(0.5, 2.0, num_devices=3)):
        weights, bias = rng.normal(u[k], 1, (60, 10)), rng.normal(u[k], 1, 10)
        x = rng.multivariate_normal(means[k], np.diag([(j + 1) ** -1.2 for j in range(60)]), sizes[k])
        y = [int(np.argmax(row @ weights + bias)) for row in x]
        drawn = {(row.tobytes(), label) for row, label in zip(x.astype(np.float32), y, strict=True)}
        found = {
            (row.tobytes(), int(label))
            for part in (device.train, device.test)
            for row, label in zip(part.x, part.y, strict=True)
        }
        assert found == drawn
        assert len(device.train.y) == int(0.9 * sizes[k])


def test_the_same_seed_gives_the_same_data_and_another_gives_other_data() -> None:
    first, again, other = (synthetic.generate(1, 1, num_devices=2, seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train.x, again.train.x)
    assert first.train.x.shape != other.train.x.shape


@pytest.mark.parametrize("setting", [(-1, 1, 30), (1, -1, 30), (1, 1, 0)])
def test_a_negative_spread_or_no_device_is_refused(setting: tuple[float, float, int]) -> None:
    alpha, beta, num_devices = setting
    with pytest.raises(InputError, match="must be at least"):
        synthetic.generate(alpha, beta, num_devices=num_devices)
