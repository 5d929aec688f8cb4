"""Data for federations: partitions of one data set, and readers of data sets from local files.

Nothing here is downloaded. A reader returns `Split` (one owner) or a mapping of client name to `Split` (many).
"""

from hansa.data.examples import Examples, Split

__all__ = ["Examples", "Split"]
