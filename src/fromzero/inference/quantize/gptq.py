"""GPTQ (Frantar et al. 2022): columns are rounded one by one, and those that are left make up for each error.

For inputs X the error of a layer is tr(D H D^T), D the change of W and H = X^T X. When column i has been rounded, what
changes the least is to add to the columns after it the error times row i of the upper Cholesky factor of H^-1, divided
by its diagonal (eq. 3 in the form of section 3.3, step 3). Columns go in blocks: inside of one the errors are made up
for at once, in the columns behind it with one product at its end (step 2).

Scales and minima are those of the groups before anything was moved, so that columns may go in any order while groups
stay neighbours in memory. They go by falling H_ii: what inputs use most is rounded while most can make up for it.
"""

import torch
from torch import Tensor

from fromzero.model.quantized import Bits, Packed, grid_of, nearest, packed_from

DAMPING = 0.01
"""Of the mean of H's diagonal, added to it, so that H can be inverted (section 3.3)."""
BLOCK = 128


def gptq(weight_OI: Tensor, hessian_II: Tensor, bits: Bits, group: int) -> Packed:
    """W in few bits for inputs whose H is given; both fp32."""
    scale_OG, minimum_OG = grid_of(weight_OI.unflatten(1, (-1, group)), bits)
    scale_OI = scale_OG.repeat_interleave(group, 1)
    minimum_OI = None if minimum_OG is None else minimum_OG.repeat_interleave(group, 1)
    order_I = hessian_II.diagonal().argsort(descending=True, stable=True)
    factor_II = _factor(hessian_II[order_I][:, order_I])
    left_OI, codes_OI = weight_OI[:, order_I], torch.empty_like(weight_OI)
    for start in range(0, left_OI.shape[1], BLOCK):
        block_OB = left_OI[:, start : start + BLOCK]
        end = start + block_OB.shape[1]
        errors_OB = torch.empty_like(block_OB)
        for place, column in enumerate(order_I[start:end].tolist()):
            scale_O, minimum_O = scale_OI[:, column], None if minimum_OI is None else minimum_OI[:, column]
            codes_O = nearest(block_OB[:, place], scale_O, minimum_O)
            value_O = codes_O * scale_O.float() + (0 if minimum_O is None else minimum_O.float())
            row_B = factor_II[start + place, start + place : end]
            errors_OB[:, place] = (block_OB[:, place] - value_O) / row_B[0]
            block_OB[:, place:].addr_(errors_OB[:, place], row_B, alpha=-1)
            codes_OI[:, column] = codes_O
        left_OI[:, end:].addmm_(errors_OB, factor_II[start:end, end:], alpha=-1)
    return packed_from(codes_OI.unflatten(1, (-1, group)), scale_OG, minimum_OG)


def _factor(hessian_II: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of H; worked out in fp64."""
    damped_II = hessian_II.double()
    mean = damped_II.diagonal().mean()
    damped_II.diagonal().add_(DAMPING * mean if mean > 0 else 1.0)  # an input that is always 0 has any weight
    inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(damped_II))
    return torch.linalg.cholesky(inverse_II, upper=True).float()
