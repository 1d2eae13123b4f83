"""Data parallelism in its plainest form: every rank has all weights, sees other rows, and gradients are summed.

Two ideas make it fast (Li et al. 2020, "PyTorch Distributed"). Small tensors travel together in buckets, because each
message has a price of its own. And a bucket leaves as soon as its gradients are there, while the backward pass works on
the layers before: buckets are filled from the last parameter to the first, the order in which gradients come.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Bucket:
    """Parameters whose gradients travel together, in one flat tensor."""

    def __init__(self, parameters: list[nn.Parameter], group: dist.ProcessGroup | None) -> None:
        self.parameters, self.group = parameters, group
        self.waiting = len(parameters)
        """Gradients that are still to come in this backward pass."""
        self.sent: tuple[Tensor, dist.Work] | None = None

    def arrived(self, _parameter: Tensor) -> None:
        """One more gradient is there; the last one sends the bucket on its way."""
        self.waiting -= 1
        if self.waiting == 0:
            self.send()

    def send(self) -> None:
        """Begin the sum over ranks; what had no gradient counts as zero."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        work = dist.all_reduce(flat, group=self.group, async_op=True)
        assert work is not None, "this rank is not in the group"
        self.sent = flat, work

    def receive(self) -> None:
        """Wait for the sum and put it where the gradients were."""
        if self.sent is None:  # some of its parameters had no part in the loss
            self.send()
        assert self.sent is not None
        flat, work = self.sent
        work.wait()
        for parameter, total in zip(self.parameters, flat.split([p.numel() for p in self.parameters]), strict=True):
            parameter.grad = total.view_as(parameter)
        self.waiting, self.sent = len(self.parameters), None


class DataParallel(nn.Module):
    """Any module, the same on every rank of the group. After `backward`, call `finish`: gradients are sums then.

    Sums, where torch's DistributedDataParallel has means: divide the loss by what all ranks count together.
    """

    def __init__(self, module: nn.Module, group: dist.ProcessGroup | None = None, bucket_bytes: int = 1 << 20) -> None:
        super().__init__()
        self.module = module
        self.synchronize = True
        """False while gradients of several micro-batches add up; True again for the last of them."""
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), group=group, group_src=0)
        learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.buckets = [Bucket(parameters, group) for parameters in in_buckets(reversed(learned), bucket_bytes)]
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(self._arrived, bucket))

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return self.module(*arguments, **named)

    def finish(self) -> None:
        """Wait for all sums. They have been under way since their part of the backward pass was done."""
        for bucket in self.buckets:
            bucket.receive()

    def _arrived(self, bucket: Bucket, parameter: Tensor) -> None:
        if self.synchronize:
            bucket.arrived(parameter)


def in_buckets(parameters: Iterable[nn.Parameter], size: int) -> list[list[nn.Parameter]]:
    """Parameters in their order, together until they have `size` bytes; one that is larger is alone."""
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        if parameter.nbytes > room:
            buckets.append([])
            room = size
        buckets[-1].append(parameter)
        room -= parameter.nbytes
    return buckets
