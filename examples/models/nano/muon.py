# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Muon: momentum whose update is replaced by the nearest semi-orthogonal matrix (five Newton-Schulz steps)."""

import torch
from torch import Tensor


def orthogonalize(m: Tensor, steps: int = 5) -> Tensor:
    """m [count, rows, columns], rows <= columns -> its singular values moved to about one."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = m / (m.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon:
    """Takes matrices [rows, columns] and stacks of them [count, rows, columns]; equal shapes share one batch."""

    def __init__(self, parameters: list[Tensor], momentum: float = 0.95, weight_decay: float = 0.0):
        self.momentum, self.weight_decay = momentum, weight_decay
        self.parameters = parameters
        self.buffers = [torch.zeros_like(p) for p in parameters]
        self.groups: dict[tuple[int, int], list[int]] = {}
        for i, p in enumerate(parameters):
            self.groups.setdefault(tuple(sorted(p.shape[-2:])), []).append(i)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for members in self.groups.values():
            self._step_group(members, rate)

    def _step_group(self, members: list[int], rate: float) -> None:
        stacks, tall = [], []
        for i in members:
            gradient, buffer = self.parameters[i].grad, self.buffers[i]
            buffer.lerp_(gradient, 1 - self.momentum)
            update = gradient.lerp(buffer, self.momentum)
            tall.append(update.shape[-2] > update.shape[-1])
            update = update.mT if tall[-1] else update
            stacks.append(update.reshape(-1, *update.shape[-2:]))
        done = orthogonalize(torch.cat(stacks)).split([s.shape[0] for s in stacks])
        for i, update, flip in zip(members, done, tall):
            p = self.parameters[i]
            update = (update.mT if flip else update).reshape(p.shape)
            p.mul_(1 - rate * self.weight_decay)
            p.add_(update, alpha=-rate * max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5)

    def state_dict(self) -> list[Tensor]:
        return self.buffers

    def load_state_dict(self, buffers: list[Tensor]) -> None:
        for mine, saved in zip(self.buffers, buffers, strict=True):
            mine.copy_(saved)
