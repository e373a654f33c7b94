"""Exports an adapter model into one verified graph on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from exporter.checkpoints.load import check_finite, load
from exporter.checkpoints.sources import located
from exporter.errors import ExportError
from exporter.models.neutral_state import neutral_state
from exporter.planning.arguments import check_files, check_flags
from exporter.planning.make_plan import make_options, make_plans
from exporter.planning.routable import check_routable
from exporter.prune.fusion_members import open_calibration
from exporter.prune.sizes import minimum_bytes
from exporter.prune.task_groups import prune
from exporter.report import Report
from exporter.slots import check_slots
from exporter.split import split_variants
from exporter.stages import Stages
from exporter.text_graph import extensions_library, make_text_graph, save_text_graphs
from exporter.variant import BundleRequest, export_variant
from exporter.verify.evaluate import open_evaluation
from exporter.verify.library_reference import compare_with_library, is_comparable
from exporter.verify.padding import with_padding_side
from exporter.write.layout import FLAT, arrange, check_layout, check_tasks
from exporter.write.replaceable import check_sources
from exporter.write.save import save_config, save_manifest, variant_files
from exporter.write.staging import check_destination, check_space, staged
from exporter.write.weights_file import WeightsFile
from runtime.bundle import WEIGHTS, SplitEntry
from runtime.hub import Access

# 255 is the limit of file systems; while an export is written, its folder has a longer name.
_NAME_BYTES = 200


@neutral_state()
def export(
    model: Any = None,
    tokenizer: Any = None,
    tasks: Sequence[str] | Mapping[str, Any] | None = None,
    drop: int | Sequence[int] | Mapping[str, int] = 0,
    output: str | Path = "onnx",
    keep_fused: int | None = None,
    calibration: str | Path | None = None,
    precision: str = "fp32",
    target: str = "portable",
    routed: bool = False,
    extendable: bool = False,
    split: bool = False,
    opset: int | None = None,
    atol: float | None = None,
    overwrite: bool = False,
    evaluation: str | Path | Mapping[str, str | Path] | None = None,
    max_disagreement: float | None = None,
    adapters: Sequence[str] = (),
    fusions: Sequence[str] = (),
    int8_ranges: str | None = None,
    pooling: Mapping[str, str] | None = None,
    heads: Mapping[str, Any] | None = None,
    slots: int | None = None,
    revision: str | None = None,
    subfolder: str = "",
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    with_tokenizer: bool = False,
    layout: str = FLAT,
) -> Report:
    """Export all tasks of an adapter model into one ONNX graph with a shared trunk, and verify it against PyTorch.

    Progress is logged at level INFO by the logger "exporter.stages"; nothing is printed. Contexts around the call, such as
    AdapterSetup, torch.autocast or torch.inference_mode, have no effect on the export.

    Args:
        model: a live model of the adapters library or of PEFT, a folder or hub id of one, or None for the bundled example. A
            live model is returned unchanged. Every hub id may be ID@REVISION, and every folder and hub id SOURCE:SUBFOLDER.
        tokenizer: a tokenizer to save with the graph, which is converted if it is a slow one; by default the one in the model's
            folder; False for none.
        tasks: adapter names, each with a head of the same name, or a mapping from task name to a composition of the adapters
            library (Stack, Fuse, Average); None for the active setup of the checkpoint, or else all its adapters.
        drop: remove the adapters of the layers 0 to drop - 1; a mapping gives a number per task, 0 for tasks that it does not
            name; a list of numbers makes a variant each, which share one weights file.
        output: the folder to write; new or empty, or an earlier export with `overwrite`.
        keep_fused: keep this many members of each fusion, in each layer those with the most attention.
        calibration: a file with texts to measure that attention on (.txt, .jsonl, .csv, .tsv; labels are optional), or with
            scores (.json).
        precision: "fp32", "fp16", "int8" (weights per output column, activations per token), or "bf16", in which some targets
            compute from a graph in fp32.
        target: "portable", standard ONNX operators only; "cpu", "cuda", with ONNX Runtime's fused operators; "openvino";
            "tensorrt".
        routed: also write a graph in which each row selects an input row and a task, for heads with one vector of logits per
            text.
        extendable: also store the traced graph of each structure, and the weights of its tasks once more, for `add`.
        split: also write each graph in two, trunk.onnx from the inputs to the states of the trunk, and branches.onnx from there
            to the tasks, so that the states can be kept; not for a drop whose trunk ends before the first layer.
        opset: ONNX operator set, 20 by default.
        atol: allowed |onnx - torch| relative to max(1, max |torch|), by default 1e-4 in fp32, 0.02 in fp16, 1 in int8.
        overwrite: replace the output folder if an export wrote it and every file in it.
        evaluation: texts on which the graph's predictions are compared with PyTorch's: a file as for `calibration`, or a
            mapping from task to file.
        max_disagreement: refuse a graph whose predictions differ from PyTorch's on more than this share of a task's evaluation
            texts.
        adapters: [NAME=]SOURCE, folders or hub ids of adapters to load into the model; NAME=base for a task with the model's
            own head, NAME=SOURCE for a fine-tune of the model. A live PEFT or transformers model takes NAME=base.
        fusions: folders or hub ids of fusion layers to load into the model.
        int8_ranges: how activations get their ranges in int8. "row", the default: at run time, one for each token, so that a
            result does not depend on the other texts of the batch. "tensor": one for the whole batch with its padding, which
            is faster and less exact. "calibrated", the only one for "openvino": from the texts of `calibration`.
        pooling: PEFT adapter of a model without a head -> the pooling of its hidden states: "cls", "max", "mean",
            "mean_sqrt_len_tokens", "weightedmean", "lasttoken", or several of them such as "cls+mean". Adapters in folders of
            sentence-transformers have that of their folder, those without any give hidden states.
        heads: task name -> a linear classifier of the model's embeddings: a fitted LogisticRegression of scikit-learn (several
            in a MultiOutputClassifier or OneVsRestClassifier for multilabel tasks), (weights, bias, labels), or a file (.npz,
            .safetensors) with these. The model is a folder of sentence-transformers or SetFit, or `pooling` names the pooling.
        slots: also write a graph that takes the weights of its tasks from this many slots of each structure, for tasks that are
            added to a running predictor (`exporter.task`). It implies `routed` and `extendable`.
        revision: branch, tag or commit of the hub id `model`; the same as ID@REVISION.
        subfolder: folder in `model` that has the files of the model; the same as SOURCE:SUBFOLDER.
        token: for hub ids: a token, False for none, None for HF_TOKEN or that of `hf auth login`.
        cache_dir: for hub ids: folder of the hub's cache; None for HF_HUB_CACHE.
        with_tokenizer: also write each graph with the tokenizer in front of it, text.onnx, from texts to the outputs of all
            tasks. It needs onnxruntime-extensions, and is refused for a tokenizer whose graph differs on any of a few thousand
            texts.
        layout: "flat", or "transformersjs" for a graph of one task in onnx/, where the pipelines of transformers.js look for
            it; `runtime.load` reads both.

    Returns:
        The report. Logits of a task: [batch, labels], [batch, 1] for regression, [batch, sequence, labels] for tagging,
        [batch, sequence, vocabulary] for language modelling, [batch, 1] for multiple choice, where one row is one choice,
        [batch, width] for embeddings.

    Raises:
        ExportError: wrong use, an unsupported model or bad input.
        VerificationError: the graph differs from PyTorch, or its predictions differ on too many texts. In either case
            nothing was written.
    """
    flags = {"routed": routed, "extendable": extendable, "split": split, "with_tokenizer": with_tokenizer}
    check_flags({**flags, "overwrite": overwrite})
    check_files(calibration, evaluation)
    output = _path(output)
    check_destination(output, overwrite)
    check_sources(output, (model, tokenizer, adapters, fusions, calibration, evaluation))
    further = {"--routed": routed, "--slots": slots is not None, "--extendable": extendable, "--split": split}
    further |= {"--with-tokenizer": with_tokenizer}
    check_layout(layout, precision, target, [name for name, given in further.items() if given])
    options = make_options(opset, atol, precision, target, int8_ranges)
    check_slots(slots, precision, target, int8_ranges)
    if with_tokenizer:
        extensions_library()
    stages = Stages()
    with stages("load"):
        access = Access(token, None if cache_dir is None else str(cache_dir))
        model = located(model, revision, subfolder)
        checkpoint = load(model, tokenizer, adapters, fusions, pooling, heads, access)
        plans = make_plans(checkpoint, tasks, drop, options)
        check_tasks(layout, plans, checkpoint.model.config.model_type, checkpoint.tokenizer, checkpoint.processor)
        asked = [name for name in ("--routed", "--slots") if further[name]]
        routed, extendable = bool(asked), extendable or slots is not None
        if routed:
            check_routable(plans[0], f"omit {' and '.join(asked)}")
    with stages("prune"):
        pruned = [prune(checkpoint.model, plan) for plan in plans]
        for task_group in (task_group for task_groups in pruned for task_group in task_groups):
            check_finite(task_group.model)
        compared = None
        if is_comparable(plans[0]):
            compared = checkpoint  # with the graph, once it is written
        else:
            compare_with_library(checkpoint, plans[0])
        # Each adapter may read padding, and the lowest drop has most of them
        most = min(range(len(plans)), key=lambda number: plans[number].drop)
        tokenizer, padding_counts = with_padding_side(checkpoint.tokenizer, pruned[most], plans[most])
        texts = open_calibration(calibration, keep_fused, tokenizer, plans[0])
        examples = open_evaluation(evaluation, max_disagreement, tokenizer, plans[0])
        request = BundleRequest(checkpoint.model, texts, keep_fused, examples, asked, extendable, slots, compared)
        # Before the long stages rather than after them.
        check_space(output, minimum_bytes(pruned, plans[0]))
    text_graph = None
    if with_tokenizer:
        with stages("tokenizer"):
            text_graph = make_text_graph(tokenizer, plans[0])
    with staged(output, overwrite) as folder:
        with WeightsFile(folder / WEIGHTS) as weights:
            done = [
                export_variant(request, plan, task_groups, folder / name, weights, stages)
                for plan, task_groups, name in zip(plans, pruned, variant_files(plans), strict=True)
            ]
        splits: dict[str, SplitEntry] = {}
        if split:
            with stages("split"):
                named = {entry.model: plan for (entry, _), plan in zip(done, plans, strict=True)}
                left = tokenizer is not None and tokenizer.padding_side == "left"
                splits = split_variants(folder, named, routed, left)
        processors = [each for each in (tokenizer, checkpoint.processor) if each is not None]
        save_config(pruned[0][0].model, plans[0], processors, folder)
        texts_to: dict[str, str] = {}
        if text_graph is not None:
            with stages("tokenizer"):
                texts_to = save_text_graphs(text_graph, folder, [entry.model for entry, _ in done], plans[0])
        entries = [arrange(layout, folder, entry, precision) for entry, _ in done]
        save_manifest(plans[0], tokenizer is not None, padding_counts, entries, folder, splits, texts_to)
    variants = tuple(
        replace(
            report,
            model=entry.model,
            split=splits.get(report.model),
            text_graph=texts_to.get(report.model, ""),
            notes=(*checkpoint.notes, *report.notes),
        )
        for entry, (_, report) in zip(entries, done, strict=True)
    )
    return Report(output, checkpoint.source, plans[0].layers, variants, stages.seconds)


def _path(output: object) -> Path:
    if not isinstance(output, str | os.PathLike) or "\0" in str(output) or not str(output):
        raise ExportError(f"the output must be the path of a folder, found {output!r}")
    path = Path(output).expanduser()
    if Path.cwd().is_relative_to(Path(os.path.abspath(path))):  # noqa: PTH100  # resolve would follow a link
        raise ExportError(
            f"the output {str(output)!r} is the current folder or contains it, and cannot be replaced: choose a folder in it"
        )
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:  # bytes that are no text, which ONNX Runtime does not take
        raise ExportError(
            f"the path of the output must be UTF-8, found {str(path.absolute())!r}: choose another one"
        ) from error
    if (length := len(os.fsencode(path.name))) > _NAME_BYTES:
        raise ExportError(f"the name of the output has {length} bytes: expected at most {_NAME_BYTES}, found {path.name!r}")
    return path
