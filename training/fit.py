"""Training of one adapter, or one fusion of frozen adapters, with robust AdapterDrop (arXiv 2010.11918, section 3.1).

For every batch a number n is drawn uniformly from 0 to L-1 inclusive, where L is the number of layers, and the adapters of the
lowest n layers are skipped: a single adapter (or fusion) learns to work at any drop.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from training.batches import Encoded, collate, training_batches
from training.tasks import TaskSpec

WARM_UP_SHARE = 0.06
CHECKPOINTS = 10  # of a run, whatever its length


def _rate(step: int, steps: int) -> float:
    """Return the factor of the learning rate: linear warm-up, then linear decay to zero."""
    warm_up = max(1, int(WARM_UP_SHARE * steps))
    return min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up))


def _save(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def fit(model: Any, tokenizer: Any, task: TaskSpec, examples: list[Encoded], seed: int, checkpoint: Path) -> None:
    """Train the adapter or fusion of a task, and its head, in place.

    The batch, drop and dropout of step k depend only on (seed, k), so a resumed run ends with the same weights as an
    uninterrupted one.

    Args:
        model: adapters model with the task.
        tokenizer: tokenizer of the base model.
        task: task to train.
        examples: training examples.
        seed: seed of batches, drops and dropout.
        checkpoint: file for checkpoints; an existing one is resumed.
    """
    if task.members:
        model.train_adapter_fusion(task.setup)
    else:
        model.train_adapter(task.setup)
    # Only a single adapter activates a head; other compositions do not.
    model.active_head = task.name
    model.train()

    def loss_of(batch: list[Encoded], drop: int) -> Any:
        model.set_active_adapters(task.setup, skip_layers=list(range(drop)))
        loss = model(**collate(task, tokenizer, batch)).loss
        # Keeps the value matrices close to the identity, as in AdapterFusion (arXiv 2005.00247).
        return loss + model.base_model.get_fusion_regularization_loss() if task.members else loss

    optimize(model, task, loss_of, examples, seed, checkpoint)
    model.set_active_adapters(task.setup)
    model.eval()


def robust_drop(seed: int, step: int, layers: int) -> int:
    """Draw the number of dropped layers of a step, uniformly from 0 to layers - 1."""
    return int(np.random.default_rng((seed, step)).integers(0, layers))


def optimize(
    model: Any,
    task: TaskSpec,
    loss_of: Callable[[list[Any], int], Any],
    examples: list[Any],
    seed: int,
    checkpoint: Path,
    drop_of: Callable[[int, int, int], int] = robust_drop,
) -> None:
    """Train the parameters of a model that require gradients, in place.

    Args:
        model: the model in training mode.
        task: the number of steps and the learning rate.
        loss_of: returns the loss of a batch with a number of dropped layers.
        examples: training examples.
        seed: seed of batches, drops and dropout.
        checkpoint: file for checkpoints; an existing one is resumed.
        drop_of: returns the number of dropped layers of (seed, step, number of layers).
    """
    layers = model.config.num_hidden_layers
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=task.learning_rate, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, task.steps))
    start, every = 0, max(1, task.steps // CHECKPOINTS)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state["parameters"][name])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        start = state["step"]

    batches = itertools.islice(training_batches(examples, task.batch_size, seed), start, task.steps)
    with tqdm(total=task.steps, initial=start, desc=f"train {task.name}", unit="step", smoothing=0.05) as bar:
        for step, batch in enumerate(batches, start):
            torch.manual_seed(seed * 1_000_003 + step)
            drop = drop_of(seed, step, layers)
            loss = loss_of(batch, drop)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            optimizer.step()
            scheduler.step()
            bar.update()
            if step % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}", drop=drop)
            if (step + 1) % every == 0:
                _save(
                    checkpoint,
                    {
                        "step": step + 1,
                        "parameters": {name: p.detach() for name, p in parameters.items()},
                        "optimizer": optimizer.state_dict(),
                        "scheduler": scheduler.state_dict(),
                    },
                )
