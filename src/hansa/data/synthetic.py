"""Generated data: FedProx's Synthetic(α, β), where each device has its own softmax model and inputs; and FCUBE.

Device k: n_k = ⌊LogNormal(4, 2)⌋ + 50 samples; u_k ~ N(0, α); W_k ~ N(u_k, 1), b_k ~ N(u_k, 1); B_k ~ N(0, β);
v_k[j] ~ N(B_k, 1); x ~ N(v_k, Σ), Σ diagonal with (j + 1)^−1.2; y = argmax(xW_k + b_k). α, β: standard deviations.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, arXiv:1812.06127, appendix C; the numbers are drawn in the order of
the authors' generator, so that seed 0 gives their 22,349 samples.
"""

import numpy as np

from hansa.data.examples import Examples, Split
from hansa.errors import InputError

__all__ = ["cube", "generate"]

_FEATURES = 60
_LABELS = 10
_TRAIN_SHARE = 0.9


def generate(alpha: float, beta: float, *, num_devices: int = 30, seed: int = 0) -> list[Split]:
    """One `Split` per device: x float32 of shape (n, 60), y int64 of shape (n,), 0 to 9.

    alpha, beta ≥ 0; seed: as in `numpy.random.seed(seed)`. Each device's samples are shuffled with the same generator
    (the authors leave that shuffle unseeded), and the first 90 % are for training.
    """
    if alpha < 0 or beta < 0 or num_devices < 1:
        raise InputError(
            f"alpha = {alpha} and beta = {beta} must be at least 0, num_devices = {num_devices} at least 1"
        )
    rng = np.random.RandomState(seed)  # the published data come from numpy's legacy generator
    sizes = rng.lognormal(4, 2, num_devices).astype(int) + 50
    u = rng.normal(0, alpha, num_devices)
    spread = rng.normal(0, beta, num_devices)
    v = np.array([rng.normal(mean, 1, _FEATURES) for mean in spread])
    sigma = np.diag(np.arange(1, _FEATURES + 1) ** -1.2)
    devices = []
    for k in range(num_devices):
        weights = rng.normal(u[k], 1, (_FEATURES, _LABELS))
        bias = rng.normal(u[k], 1, _LABELS)
        x = rng.multivariate_normal(v[k], sigma, sizes[k])
        y = np.argmax(x @ weights + bias, axis=1)
        devices.append(Examples(x.astype(np.float32), y.astype(np.int64)))
    return [_split(examples, rng.permutation(len(examples.y))) for examples in devices]


def _split(examples: Examples, order: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Split:
    num_train = int(_TRAIN_SHARE * len(order))
    return Split(train=examples.take(order[:num_train]), test=examples.take(order[num_train:]))


def cube(num_samples: int = 4000, *, seed: int = 0) -> Examples:
    """FCUBE: points x uniform in a cube, float32 of shape (n, 3), −1 to 1; y int64 of shape (n,), 1 where x₀ > 0.

    Share it with `hansa.data.partition.octants`.

    Li, Diao, Chen, He 2022 (NIID-Bench, "synthetic feature imbalance"), arXiv:2102.02079.
    """
    if num_samples < 1:
        raise InputError(f"num_samples is {num_samples}; it must be at least 1")
    x = np.random.default_rng(seed).uniform(-1, 1, (num_samples, 3)).astype(np.float32)
    return Examples(x, (x[:, 0] > 0).astype(np.int64))
