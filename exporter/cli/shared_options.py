"""Options that several commands have. Like all options, they do not load torch."""

from __future__ import annotations

import argparse

from exporter.cli.option_values import parse_head, parse_pooling, parse_tasks


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a model, its adapters and its heads."""
    parser.add_argument(
        "--model",
        metavar="SOURCE",
        help="a folder written by model.save_pretrained, or a hub id; ID@REVISION; SOURCE:SUBFOLDER; default: the bundled "
        "example",
    )
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]SOURCE",
        help="adapters to load into the model: a folder or hub id written by save_adapter, save_all_adapters or PEFT, or "
        "SOURCE:SUBFOLDER; NAME=SOURCE of a fine-tune of the model; NAME=base for the model's own head; may be repeated",
    )
    parser.add_argument(
        "--fusion",
        action="append",
        default=[],
        metavar="SOURCE",
        help="fusion layers to load into the model: a folder or hub id written by save_adapter_fusion; may be repeated",
    )
    parser.add_argument(
        "--pooling",
        action="append",
        default=[],
        type=parse_pooling,
        metavar="NAME=POOLING",
        help="give embeddings for a PEFT adapter without a head: cls, mean, max, weightedmean, mean_sqrt_len_tokens, "
        "lasttoken, or several, such as cls+mean; default: that of its sentence-transformers folder, else hidden states; "
        "may be repeated",
    )
    parser.add_argument(
        "--head",
        action="append",
        default=[],
        type=parse_head,
        metavar="NAME=FILE",
        help="a linear classifier of the model's embeddings: coefficients of scikit-learn's LogisticRegression (.npz, "
        ".safetensors); the pooling is that of a sentence-transformers or SetFit folder, or --pooling NAME=…; may be repeated",
    )


def add_tasks(parser: argparse.ArgumentParser, which: str = "adapters to export", default: str = "all") -> None:
    """Add the option that selects tasks."""
    parser.add_argument(
        "--tasks",
        type=parse_tasks,
        metavar="A,B",
        help=f"{which}, each with a head of the same name, or HEAD=ADAPTER; names with a comma in double quotes; "
        f"default: {default}",
    )


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide what is verified and printed."""
    parser.add_argument(
        "--atol", type=float, metavar="X", help="allowed difference relative to max(1, max |logit|); default 1e-4 in fp32"
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--quiet", action="store_true", help="print neither progress nor report")
    amount.add_argument(
        "--verbose", action="store_true", help="print all rows of each table, and what each pass of the compiler changed"
    )
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object on standard output")
