"""Data for federations: partitions of one data set, and readers of data sets from local files.

Nothing here is downloaded. A reader's `read` returns a `Split` (one owner), its `read_clients` a mapping of client name
to `Split` (many): `FederatedData`, which reads an owner's examples when they are asked for.
"""

from hansa.data.columns import Columns
from hansa.data.examples import Examples, Split
from hansa.data.federated import FederatedData, Partitioned

__all__ = ["Columns", "Examples", "FederatedData", "Partitioned", "Split"]
