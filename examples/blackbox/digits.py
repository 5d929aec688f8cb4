"""Write the digits as text for a program that knows no Python: on each line a label and 64 pixels from 0 to 16."""

import os
import sys
from pathlib import Path

from hansa.data import digits

whole = digits.read()
for name, (x, y) in (("train", whole.train), ("test", whole.test)):
    lines = (
        f"{label} {' '.join(str(round(16 * pixel)) for pixel in image)}\n" for image, label in zip(x, y, strict=True)
    )
    new = Path(sys.argv[1], f"{name}.{os.getpid()}")
    new.write_text("".join(lines))
    new.replace(Path(sys.argv[1], f"{name}.txt"))
