"""Laws that every plug-in obeys, as functions: hansa's own tests run them, and an author of a plug-in does too.

```python
import pytest
from hypothesis import given

from hansa.testing.aggregators import LAWS, cases


@pytest.mark.parametrize("law", LAWS)
@given(case=cases())
def test_my_aggregator(law, case):
    law(MyAggregator(), case)
```

`aggregators` and `algorithms` have laws and cases, `equalities` has laws between two algorithms, `rejections` has
updates that must not be counted, `values` draws models and updates, `linear` is a small `Trainer` in NumPy, and
`federation` plays whole rounds without any runtime. A law that does not hold raises `LawBrokenError`, an
`AssertionError` that says which and where. The strategies need hypothesis.
"""

__all__: list[str] = []
