"""A mixture of experts: a router sends each token to a few of many feed-forward layers (Shazeer et al. 2017).

Dimensions: N tokens, E experts, A active experts of a token, F hidden width of an expert, D width.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromzero.model.config import Experts, ModelConfig
from fromzero.model.layers import ACTIVATIONS, FeedForward, Linear
from fromzero.model.quantized import Matrix, QuantizedMatrix
from fromzero.model.wide_linear import product_dtype


class Routes(NamedTuple):
    """Where tokens go: the experts of each, the factors of their outputs, and what led to the choice; in fp32."""

    experts_NA: Tensor
    weights_NA: Tensor
    logits_NE: Tensor
    scores_NE: Tensor


class Router(nn.Module):
    """Tokens (N, D) -> the experts of each; scores are in fp32 whatever the compute dtype."""

    bias: Tensor | None

    def __init__(self, config: ModelConfig, shape: Experts) -> None:
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.empty(shape.count, config.width))
        self.register_buffer("bias", torch.zeros(shape.count) if shape.balance == "bias" else None)

    def forward(self, x_ND: Tensor) -> Routes:
        logits_NE = F.linear(x_ND.float(), self.weight)
        scores_NE = logits_NE.sigmoid() if self.shape.router == "sigmoid" else logits_NE.softmax(-1)
        ranking_NE = scores_NE.detach() if self.bias is None else scores_NE.detach() + self.bias
        if self.shape.groups > 1:
            ranking_NE = self._within_groups(ranking_NE)
        experts_NA = ranking_NE.topk(self.shape.active, dim=-1).indices
        weights_NA = scores_NE.gather(-1, experts_NA)
        if self.shape.normalize:
            weights_NA = weights_NA / (weights_NA.sum(-1, keepdim=True) + 1e-20)
        return Routes(experts_NA, weights_NA * self.shape.scale, logits_NE, scores_NE)

    def _within_groups(self, ranking_NE: Tensor) -> Tensor:
        """Experts outside the best groups get -inf."""
        ranking_NGM = ranking_NE.unflatten(-1, (self.shape.groups, -1))
        best = min(2 if self.shape.group_score == "top2" else 1, ranking_NGM.shape[-1])
        quality_NG = ranking_NGM.topk(best, dim=-1).values.sum(-1)
        chosen_NG = quality_NG.topk(self.shape.active_groups, dim=-1).indices
        outside_NG = torch.ones_like(quality_NG, dtype=torch.bool).scatter_(-1, chosen_NG, False)
        return ranking_NGM.masked_fill(outside_NG[..., None], float("-inf")).flatten(-2)


class Bank(nn.Module):
    """The experts of a layer, each a feed-forward layer with a gate."""

    def __init__(self, config: ModelConfig, shape: Experts) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        count, hidden, width = shape.count, shape.width or config.ffn_size, config.width
        self.up = nn.Parameter(torch.empty(count, hidden, width))
        self.gate = nn.Parameter(torch.empty(count, hidden, width))
        self.down = nn.Parameter(torch.empty(count, width, hidden))

    def forward(self, x_MD: Tensor, counts_E: Tensor) -> Tensor:
        """x: first the tokens of expert 0, then those of expert 1, ...; so many as the counts say."""
        return self.compute(x_MD, counts_E, self.up, self.gate, self.down)

    def compute(self, x_MD: Tensor, counts_E: Tensor, up_EFD: Matrix, gate_EFD: Matrix, down_EDF: Matrix) -> Tensor:
        """The same with weights of one's own, of so many experts as there are counts."""
        gate_MF, up_MF = (grouped_linear(x_MD, weight_EFD, counts_E) for weight_EFD in (gate_EFD, up_EFD))
        return grouped_linear(self.activation(gate_MF) * up_MF, down_EDF, counts_E)


class Mixture(nn.Module):
    """(B, T, D) -> (B, T, D), in place of a feed-forward layer; no token is dropped unless there is a capacity.

    After a pass in training, `losses` has what is to be added to the loss, and `load_E` the tokens of each expert since
    the last `balance`.
    """

    def __init__(self, config: ModelConfig, shape: Experts) -> None:
        super().__init__()
        self.shape = shape
        self.router = Router(config, shape)
        self.experts = Bank(config, shape)
        self.shared = FeedForward(config, shape.shared) if shape.shared else None
        self.shared_gate = Linear(config.width, 1, bias=False) if shape.shared_gate else None
        self.losses: dict[str, Tensor] = {}
        self.load_E: Tensor | None = None

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_ND = x_BTD.flatten(0, -2)
        routes = self.router(x_ND)
        if self.training:
            self._observe(routes)
        experts_M, order_M = routes.experts_NA.flatten().sort(stable=True)  # M = N x A pairs of token and expert
        if self.training and self.shape.capacity is not None:
            room = math.ceil(self.shape.capacity * len(experts_M) / self.shape.count)
            first_M = torch.searchsorted(experts_M, experts_M)  # where the pairs of the same expert begin
            kept_M = torch.arange(len(experts_M), device=x_ND.device) - first_M < room
            experts_M, order_M = experts_M[kept_M], order_M[kept_M]
        tokens_M = order_M // self.shape.active
        y_MD = self.experts(x_ND[tokens_M], experts_M.bincount(minlength=self.shape.count))
        y_MD = y_MD * routes.weights_NA.flatten()[order_M, None].to(y_MD.dtype)
        y_ND = torch.zeros_like(x_ND).index_add(0, tokens_M, y_MD)
        if self.shared is not None:
            shared_ND = self.shared(x_ND)
            y_ND = y_ND + (shared_ND if self.shared_gate is None else self.shared_gate(x_ND).sigmoid() * shared_ND)
        return y_ND.view_as(x_BTD)

    def _observe(self, routes: Routes) -> None:
        load_E = routes.experts_NA.flatten().bincount(minlength=self.shape.count)
        self.load_E = load_E if self.load_E is None else self.load_E + load_E
        self.losses = {}
        if self.shape.balance == "loss":
            self.losses["balance"] = self.shape.balance_weight * balance_loss(routes.scores_NE, load_E)
        if self.shape.z_weight:
            self.losses["router_z"] = self.shape.z_weight * z_loss(routes.logits_NE)

    @torch.no_grad()
    def balance(self) -> None:
        """Raise the bias of experts that had less than the mean since the last call, lower the others' (Wang 2024)."""
        if self.router.bias is not None and self.load_E is not None:
            load_E = self.load_E.float()
            self.router.bias += self.shape.balance_weight * (load_E.mean() - load_E).sign()
        self.load_E = None


def mixtures(model: nn.Module) -> list[Mixture]:
    """All of a model's."""
    return [module for module in model.modules() if isinstance(module, Mixture)]


def grouped_linear(x_MI: Tensor, weight_EOI: Matrix, counts_E: Tensor) -> Tensor:
    """The first rows times the first matrix, the next times the second, ...: (M, O).

    On torch's kernel where it takes the numbers (on a GPU bfloat16 alone; rows of whole 16 bytes), else one by one.
    """
    if isinstance(weight_EOI, QuantizedMatrix):
        return weight_EOI.each_times(x_MI, counts_E)
    kept, x_MI = x_MI.dtype, x_MI.to(product_dtype(x_MI))
    weight_EOI = weight_EOI.to(x_MI.dtype)
    aligned = all(size * x_MI.element_size() % 16 == 0 for size in weight_EOI.shape[1:])
    if aligned and (x_MI.device.type == "cpu" or x_MI.dtype == torch.bfloat16):
        ends_E = counts_E.cumsum(0, dtype=torch.int32)
        return F.grouped_mm(x_MI, weight_EOI.transpose(1, 2), offs=ends_E).to(kept)
    parts = zip(x_MI.split(counts_E.tolist()), weight_EOI.unbind(), strict=True)
    return torch.cat([F.linear(rows, matrix) for rows, matrix in parts]).to(kept)


def balance_loss(scores_NE: Tensor, load_E: Tensor) -> Tensor:
    """E x sum over experts of (share of the load) x (mean score): 1 when all are even (Fedus et al. 2021, eq. 4).

    Scores are divided by their sum, so that sigmoids are shares too (DeepSeek-V3, eq. 18).
    """
    shares_NE = scores_NE / scores_NE.sum(-1, keepdim=True)
    return load_E.numel() * (load_E / load_E.sum() * shares_NE.mean(0)).sum()


def z_loss(logits_NE: Tensor) -> Tensor:
    """Mean square of the logits' log-sum-exp, which keeps them small (Zoph et al. 2022, eq. 5)."""
    return logits_NE.logsumexp(-1).square().mean()
