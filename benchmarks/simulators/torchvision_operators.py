"""Import before a library that imports torchvision, which no program here uses.

PyPI's torchvision is built for CUDA: beside a CPU build of torch it cannot load its operators, and its import then
stops at the missing declarations of these two.
"""

import torch

if not torch.cuda.is_available():
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
