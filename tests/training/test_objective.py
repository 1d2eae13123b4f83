"""What is minimised is what the model's own logits say, and what its mixtures of experts add."""

import pytest
import torch

from fromzero.model import ModelConfig, Transformer, functions
from fromzero.training.objective import next_token_loss
from tests.model.shapes import DECODERS

ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
targets = torch.where(torch.arange(9) < 3, -100, ids.roll(-1, 1))


@pytest.mark.parametrize("config", [DECODERS[name] for name in ("llama", "gemma 2", "gpt-j", "t5 decoder", "mixtral")])
def test_the_loss_is_of_the_models_own_logits(config: ModelConfig) -> None:
    model = Transformer(config).eval()
    logits = model(ids)
    wanted = functions.cross_entropy(logits.flatten(0, 1), targets.flatten()).sum()
    torch.testing.assert_close(next_token_loss(model, ids, targets), wanted)


def test_in_training_mixtures_add_to_each_target() -> None:
    model = Transformer(DECODERS["mixtral"])
    without = next_token_loss(model.eval(), ids, targets)
    added = next_token_loss(model.train(), ids, targets) - without
    torch.testing.assert_close(added, 12 * model.auxiliary_losses()["balance"])
