"""How much each member of an AdapterFusion counts in each layer, measured or given, and which members stay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from adapters.composition import Fuse

from exporter.errors import ExportError
from exporter.models.compositions import fuses_of
from exporter.models.fusion import fusion_layers, members_of
from exporter.texts.batches import Calibration
from exporter.texts.files import Scores


@dataclass(frozen=True)
class LayerScores:
    """One layer of a fusion.

    Attributes:
        layer: counted from 0; an encoder's layers come before its decoder's.
        members: those with an adapter in this layer, in the fusion's order.
        scores: one per member: the mean of its locations.
        locations: the scores at each place within the layer that has a fusion block ("mh_adapter" after the attention,
            "output_adapter" after the feed-forward); empty where scores were given.
    """

    layer: int
    members: tuple[str, ...]
    scores: tuple[float, ...]
    locations: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class AttentionTable:
    """How much each member of a fusion counts.

    Measured scores are the fusion's attention, averaged over real tokens: those of a layer add up to 1. Where a layer has the
    fusion at several locations, each counts the same: a member stays in the layer or leaves it as a whole.

    Attributes:
        task: whose setup has the fusion.
        fusion: the name of its weights.
        members: in the fusion's order; a stack by its composition, "Stack(a, b)".
        layers: the layers in which the fusion runs, ascending.
        measured: on texts; otherwise given by the user.
    """

    task: str
    fusion: str
    members: tuple[str, ...]
    layers: tuple[LayerScores, ...]
    measured: bool

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON types."""
        rows = [
            {
                "layer": row.layer,
                "scores": dict(zip(row.members, row.scores, strict=True)),
                "locations": {name: dict(zip(row.members, values, strict=True)) for name, values in row.locations.items()},
            }
            for row in self.layers
        ]
        return {
            **{name: getattr(self, name) for name in ("task", "fusion", "measured")},
            "members": list(self.members),
            "layers": rows,
        }


def attention_tables(model: Any, task: str, setup: Any, calibration: Calibration) -> tuple[AttentionTable, ...]:
    """A table for each fusion of `setup`, measured on the calibration texts or with the scores that the file gives.

    `model` is in evaluation mode and runs `setup` alone, with all members and without the layers that are dropped; its
    temperature is frozen, which every forward pass would lower. It is handed back as it came.

    Raises:
        ExportError: the library cannot run the fusion, or the scores given do not fit it.
    """
    fuses = {str(fuse.name): fuse for fuse in fuses_of(setup)}
    for fuse in fuses_of(setup):
        if members_of(fuse) != members_of(fuses[str(fuse.name)]):
            raise ExportError(f"the task {task!r} uses the weights of the fusion {fuse.name!r} for two lists of members")
    if calibration.scores is not None:
        return tuple(_given(model, task, fuse, calibration.scores, len(fuses) == 1) for fuse in fuses.values())
    return measure(model, task, tuple(fuses.values()), calibration)


def measure(model: Any, task: str, fuses: Sequence[Fuse], calibration: Calibration) -> tuple[AttentionTable, ...]:
    """The mean fusion attention of each member over the real tokens of the texts, by layer and location."""
    recorder = _Recorder()
    places = {fuse.name: list(fusion_layers(model, fuse)) for fuse in fuses}
    hooks = [
        layer.adapter_fusion_layer[name].register_forward_hook(recorder.hook((name, layer.layer_idx, layer.location_key)))
        for name, layers in places.items()
        for layer, _ in layers
    ]
    # Heads are of no interest here. The body of an encoder-decoder does not make the decoder's inputs by itself.
    body = model if getattr(model.config, "is_encoder_decoder", False) else model.base_model
    try:
        with torch.inference_mode():
            for batch in calibration.batches:
                recorder.mask = batch.mask
                feeds = {name: torch.from_numpy(value) for name, value in batch.feeds.items()}
                # The flag makes the fusions return their attention, also where a layer runs them more than once (ALBERT).
                body(**feeds, output_adapter_fusion_attentions=True)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(_measured(task, fuse, places[fuse.name], recorder) for fuse in fuses)


class _Recorder:
    """Sums of attention by (fusion, layer, location), over the tokens that `mask` says are real."""

    def __init__(self) -> None:
        self.mask: npt.NDArray[np.int64] = np.ones((0, 0), np.int64)
        self.sums: dict[tuple[str, int, str], Any] = defaultdict(float)
        self.tokens: dict[tuple[str, int, str], float] = defaultdict(float)

    def hook(self, key: tuple[str, int, str]) -> Callable[[Any, Any, Any], None]:
        """A forward hook for a fusion module."""

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
        # Tokens of prompt tuning come before the text's and are as real.
        return np.concatenate([np.ones((mask.shape[0], shape[1] - mask.shape[1])), mask], axis=1)


def _measured(task: str, fuse: Fuse, places: Sequence[tuple[Any, tuple[str, ...]]], recorder: _Recorder) -> AttentionTable:
    members: dict[int, tuple[str, ...]] = {}
    locations: dict[int, dict[str, tuple[float, ...]]] = defaultdict(dict)
    for layer, present in places:
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
            f"the scores given have nothing for the fusion {fuse.name!r} of the task {task!r}: expected "
            "{fusion: {layer: {member: score}}}; they name " + ", ".join(repr(name) for name in scores if name)
        )
    members = members_of(fuse)
    # Scores of layers that are dropped, or of members that a layer lacks, do no harm.
    problems = [f"layer {layer} is missing" for layer in layers if layer not in given]
    problems += [
        f"layer {layer} lacks {name!r}" for layer in layers for name in layers[layer] if name not in given.get(layer, {name})
    ]
    problems += [f"layer {layer} has {name!r}, no member" for layer in given for name in given[layer] if name not in members]
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise ExportError(f"the scores given do not fit the fusion {fuse.name!r} of {', '.join(members)}: {shown}")
    rows = [LayerScores(layer, names, tuple(given[layer][name] for name in names)) for layer, names in sorted(layers.items())]
    return AttentionTable(task, fuse.name, members, tuple(rows), measured=False)


def choose(table: AttentionTable, keep: int) -> dict[int, tuple[str, ...]]:
    """The `keep` members with the highest scores of each layer, in the fusion's order; of equal scores the earlier member's.

    A layer that has no more than `keep` members keeps them all.

    Raises:
        ExportError: `keep` is no whole number from 1 to the number of members.
    """
    if isinstance(keep, bool) or not isinstance(keep, int) or not 1 <= keep <= len(table.members):
        raise ExportError(
            f"the number of members to keep must be from 1 to {len(table.members)}, the members of the fusion "
            f"{table.fusion!r}; found {keep!r}"
        )
    kept = {}
    for row in table.layers:
        ranked = sorted(range(len(row.members)), key=lambda index: (-row.scores[index], index))
        kept[row.layer] = tuple(row.members[index] for index in sorted(ranked[:keep]))
    return kept
