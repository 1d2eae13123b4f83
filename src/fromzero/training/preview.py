"""What a run of pretraining will do, step by step, to look at before it begins."""

from collections.abc import Sequence

from fromzero.console import human_count, say, table
from fromzero.tokenizer import load_tokenizer
from fromzero.training.depth import parameters
from fromzero.training.objectives import objective_kind, row_length
from fromzero.training.pretrain import PretrainConfig, settled
from fromzero.training.schedule import batch_size, learning_rate, sequences

ROWS = 12


def show_schedule(config: PretrainConfig) -> None:
    """Print the learning rate and the size of batches over the run, as plots and a table. Raises UserError."""
    data = config.open()
    config = settled(config, data)
    model, train = config.model.with_vocab(load_tokenizer(data.path).vocab_size), config.train
    length = row_length(objective_kind(train, model), model)
    say(
        f"model: {human_count(parameters(model))} parameters, {model.layers} layers, width {model.width}, "
        f"{model.heads} heads, context {model.context}\n"
        f"training: {train.steps:,} steps, {human_count(sequences(train.steps, train) * length)} tokens, "
        f"{train.optimizer}, weight decay {train.weight_decay:g}, at most {train.micro_batch_size or train.batch_size} "
        "sequences at once"
    )
    wide = [i * (train.steps - 1) / 59 for i in range(60)]
    rates = [learning_rate(round(step), train) for step in wide]
    say("\n".join((f"\nlearning rate, up to {train.learning_rate:g}", *plot(rates))))
    sizes = [float(batch_size(round(step), train)) for step in wide]
    say("\n".join((f"\nsequences in a step, up to {train.batch_size}", *plot(sizes))))
    rows = []
    for step in sorted({round(i * (train.steps - 1) / (ROWS - 1)) for i in range(ROWS)}):
        done = human_count(sequences(step + 1, train) * length)
        rows.append((f"{step + 1:,}", f"{learning_rate(step, train):.3g}", f"{batch_size(step, train):,}", done))
    table("schedule", ("step", "learning rate", "sequences", "tokens so far"), rows, "rrrr")


def plot(values: Sequence[float], height: int = 6) -> list[str]:
    """Values above zero as columns of blocks, in lines from the top."""
    levels = [round(8 * height * value / max(values)) for value in values]
    return [
        "".join(" ▁▂▃▄▅▆▇█"[min(8, max(0, level - 8 * row))] for level in levels) for row in reversed(range(height))
    ]
