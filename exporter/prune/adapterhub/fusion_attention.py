"""Scores of fusion members, measured as attention on texts or read from the user's file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from adapters.composition import Fuse

from exporter.errors import ExportError
from exporter.models.adapterhub.fusion import fusion_layers
from exporter.models.compositions import fuses_of, members_of
from exporter.prune.fusion_scores import AttentionTable, LayerScores
from exporter.texts.batches import Calibration
from exporter.texts.files import Scores


def attention_tables(model: Any, task: str, setup: Any, calibration: Calibration) -> tuple[AttentionTable, ...]:
    """Return a table for each fusion of `setup`, from the calibration texts or the scores in the calibration file.

    Args:
        model: a pruned model in evaluation mode in which only `setup` is active, with all members; its fusion temperature is
            frozen, because every forward pass would lower it. It is not changed.
        task: the task name.
        setup: the task's setup.
        calibration: texts to measure on, or scores.

    Raises:
        ExportError: the adapters library cannot run the fusion, or the scores do not fit it.
    """
    fuses = {str(fuse.name): fuse for fuse in fuses_of(setup)}
    for fuse in fuses_of(setup):
        if members_of(fuse) != members_of(fuses[str(fuse.name)]):
            raise ExportError(
                f"the task {task!r} uses the fusion {fuse.name!r} with two lists of members: give each list a fusion layer"
            )
    if calibration.scores is not None:
        return tuple(_given(model, task, fuse, calibration.scores, len(fuses) == 1) for fuse in fuses.values())
    return measure(model, task, tuple(fuses.values()), calibration)


def measure(model: Any, task: str, fuses: Sequence[Fuse], calibration: Calibration) -> tuple[AttentionTable, ...]:
    """Measure the mean fusion attention of each member over the real tokens of the texts, by layer and location."""
    recorder = _Recorder()
    fused_layers = {fuse.name: list(fusion_layers(model, fuse)) for fuse in fuses}
    hooks = [
        layer.adapter_fusion_layer[name].register_forward_hook(recorder.hook((name, layer.layer_idx, layer.location_key)))
        for name, layers in fused_layers.items()
        for layer, _ in layers
    ]
    # The head is not needed; but the base model of an encoder-decoder does not create the decoder's inputs.
    body = model if getattr(model.config, "is_encoder_decoder", False) else model.base_model
    try:
        with torch.inference_mode():
            for batch in calibration.batches:
                recorder.mask = batch.mask
                feeds = {name: torch.from_numpy(value) for name, value in batch.feeds.items()}
                # The flag makes the fusions return their attention, also if a layer runs more than once (ALBERT).
                body(**feeds, output_adapter_fusion_attentions=True)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(_measured(task, fuse, fused_layers[fuse.name], recorder) for fuse in fuses)


class _Recorder:
    """Sums of attention by (fusion, layer, location), over the tokens where `mask` is 1."""

    def __init__(self) -> None:
        self.mask: npt.NDArray[np.int64] = np.ones((0, 0), np.int64)
        self.sums: dict[tuple[str, int, str], Any] = defaultdict(float)
        self.tokens: dict[tuple[str, int, str], float] = defaultdict(float)

    def hook(self, key: tuple[str, int, str]) -> Callable[[Any, Any, Any], None]:
        """Return a forward hook for a fusion module."""

        def record(_module: Any, _inputs: Any, output: Any) -> None:
            attention = output[1]  # [batch, sequence, members]
            weights = self._weights(attention.shape[:2])
            self.sums[key] = self.sums[key] + np.einsum("bsm,bs->m", attention.astype(np.float64), weights)
            self.tokens[key] += float(weights.sum())

        return record

    def _weights(self, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
        mask = self.mask.astype(np.float64)
        if shape[1] < mask.shape[1]:
            return np.ones(shape)
        # Tokens of prompt tuning precede the text and count as real tokens.
        return np.concatenate([np.ones((mask.shape[0], shape[1] - mask.shape[1])), mask], axis=1)


def _measured(task: str, fuse: Fuse, layers: Sequence[tuple[Any, tuple[str, ...]]], recorder: _Recorder) -> AttentionTable:
    members: dict[int, tuple[str, ...]] = {}
    locations: dict[int, dict[str, tuple[float, ...]]] = defaultdict(dict)
    for layer, present in layers:
        key = (fuse.name, layer.layer_idx, layer.location_key)
        if recorder.tokens[key]:
            members[layer.layer_idx] = present
            means = recorder.sums[key] / recorder.tokens[key]
            locations[layer.layer_idx][layer.location_key] = tuple(float(value) for value in means)
    rows = [
        LayerScores(layer, members[layer], tuple(np.mean(list(locations[layer].values()), 0).tolist()), locations[layer])
        for layer in sorted(members)
    ]
    return AttentionTable(task, fuse.name, members_of(fuse), tuple(rows), measured=True)


def _given(model: Any, task: str, fuse: Fuse, scores: Scores, only: bool) -> AttentionTable:
    layers = {layer.layer_idx: present for layer, present in fusion_layers(model, fuse)}
    given = scores.get(fuse.name, scores.get("") if only else None)
    if given is None:
        raise ExportError(
            f"the scores given have no entry for the fusion {fuse.name!r} of the task {task!r}: expected "
            "{fusion: {layer: {member: score}}}, found " + ", ".join(repr(name) for name in scores if name)
        )
    members = members_of(fuse)
    # Scores of dropped layers, or of members that a layer lacks, are ignored.
    problems = [f"layer {layer} is missing" for layer in layers if layer not in given]
    problems += [
        f"layer {layer} lacks {name!r}" for layer in layers for name in layers[layer] if name not in given.get(layer, {name})
    ]
    problems += [
        f"layer {layer} has {name!r}, which is not a member" for layer in given for name in given[layer] if name not in members
    ]
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise ExportError(f"the scores given do not fit the fusion {fuse.name!r} of {', '.join(members)}: {shown}")
    rows = [LayerScores(layer, names, tuple(given[layer][name] for name in names)) for layer, names in sorted(layers.items())]
    return AttentionTable(task, fuse.name, members, tuple(rows), measured=False)
