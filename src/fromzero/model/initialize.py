"""All initialisation in one place.

Normal with standard deviation 0.02 (GPT-2), and the matrices that write into the residual stream smaller by
sqrt(2 x layers), so that its variance does not grow with depth (Radford et al. 2019, section 2.3).
"""

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

STANDARD_DEVIATION = 0.02
_RESIDUAL = ("attention.output.weight", "cross.output.weight", "down.weight", "experts.down")


@torch.no_grad()
def initialize(model: "nn.Module", layers: int, seed: int) -> None:
    """Fill every parameter: matrices from a generator seeded with `seed`, norms' weights with 1, biases with 0.

    layers: how many blocks write into one residual stream.

    The numbers are drawn on the CPU in the order of the parameters' names, so they don't depend on the device.
    """
    generator = torch.Generator().manual_seed(seed)
    residual_deviation = STANDARD_DEVIATION / math.sqrt(2 * layers)
    for name, parameter in sorted(model.named_parameters()):
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.dim() == 1 and name.endswith("weight"):
            parameter.fill_(1.0)
        else:
            deviation = residual_deviation if name.endswith(_RESIDUAL) else STANDARD_DEVIATION
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, deviation, generator=generator))
