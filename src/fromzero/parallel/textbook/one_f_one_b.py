"""A pipeline from scratch: one forward, one backward (1F1B; Narayanan et al. 2019 and 2021).

Stage s of S waits for hidden states, computes, passes them on; gradients come back the other way. A stage begins with
S - 1 - s forward passes (warm-up), so that the last one can begin its first backward pass at once; then it does one
forward and one backward pass in turn (steady), and at the end the backward passes that are left (cool-down):

    stage 0   F0 F1 F2 B0 F3 B1    B2    B3         S = 3, four micro-batches
    stage 1      F0 F1 F2 B0 F3 B1    B2    B3
    stage 2         F0 B0 F1 B1 F2 B2 F3 B3

A stage never holds the activations of more than S - s micro-batches, where GPipe holds those of all.
"""

from collections import deque
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


class OneForwardOneBackward:
    """One rank's stage. Gradients add up in its parameters, as of the sum of the micro-batches' losses."""

    def __init__(self, stage: nn.Module, shape: Sequence[int], group: dist.ProcessGroup | None = None) -> None:
        """stage: what this rank of the group computes. shape: of what the stage before it sends."""
        self.stage, self.shape, self.group = stage, tuple(shape), group
        self.place, self.places = dist.get_rank(group), dist.get_world_size(group)
        self.first, self.last = self.place == 0, self.place == self.places - 1
        self.waiting: deque[tuple[Tensor, Tensor]] = deque()
        """What went in and what came out of each forward pass whose backward pass is still to come."""
        self.sent: list[tuple[dist.Work, Tensor]] = []

    def step(self, inputs: Sequence[Tensor], targets: Sequence[Tensor], loss: Loss) -> float:
        """Forward and backward passes of all micro-batches; the sum of their losses, on the last stage.

        inputs: of the first stage. targets: of the last. Both are as many on all ranks.
        """
        total, count = 0.0, len(inputs)
        warm_up = min(self.places - 1 - self.place, count)
        for index in range(warm_up):
            total += self._forward(inputs[index], targets[index], loss)
        for index in range(warm_up, count):
            total += self._forward(inputs[index], targets[index], loss)
            self._backward()
        for _ in range(warm_up):
            self._backward()
        for work, _ in self.sent:
            work.wait()
        self.sent.clear()
        return total

    def _forward(self, given: Tensor, target: Tensor, loss: Loss) -> float:
        x = given if self.first else self._receive(self.shape, self.place - 1).requires_grad_()
        y = self.stage(x)
        if self.last:
            y = loss(y, target)
        else:
            self._send(y.detach(), self.place + 1)
        self.waiting.append((x, y))
        return float(y.detach()) if self.last else 0.0

    def _backward(self) -> None:
        x, y = self.waiting.popleft()
        y.backward(None if self.last else self._receive(y.shape, self.place + 1))
        if not self.first:
            assert x.grad is not None
            self._send(x.grad, self.place - 1)

    def _send(self, x: Tensor, to: int) -> None:
        """Without waiting: two neighbours that both send first would wait for each other for ever."""
        x = x.contiguous()
        work = dist.isend(x, group=self.group, group_dst=to)
        assert work is not None
        self.sent.append((work, x))  # memory that is being sent must not go away

    def _receive(self, shape: Sequence[int], source: int) -> Tensor:
        x = torch.empty(tuple(shape))
        dist.recv(x, group=self.group, group_src=source)
        return x
