"""Local training in one ML framework each. Importing this package loads none of them; each is an extra of its own.

```python
from hansa.training.torch import TorchTrainer  # hansa[torch]
from hansa.training.sklearn import SklearnTrainer  # hansa[sklearn]
from hansa.training.numpy import NumpyTrainer, softmax_regression

app = hansa.App(trainer=NumpyTrainer(softmax_regression(784, 10), learning_rate=0.05, batch_size=10))
```

All of them read `task.data` in one way, see `hansa.training.local`.
"""

from hansa.training.convert import as_arrays

__all__ = ["as_arrays"]
