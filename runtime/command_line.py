"""All commands of `python -m runtime`; see its --help."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from runtime import compile_ahead, states_commands
from runtime.command_options import TEXT_FILE, CommandParser, add_task_options, add_text_options, describe, read_settings
from runtime.errors import AdapterDropError, InputError, ProviderError
from runtime.load_bundle import load
from runtime.logged import shown
from runtime.options import Options
from runtime.ort import devices
from runtime.ort.known_providers import NAMES
from runtime.ort.probe import described
from runtime.ort.providers import find
from runtime.predictions_text import as_json, as_text
from runtime.predictor import Prediction, Predictor
from runtime.printable import printable
from runtime.program import as_called, as_options, nearest_command, terminable
from runtime.serving import triton
from runtime.standard_output import discard_output, failed, print_error, print_text, written
from runtime.states_commands import with_added
from runtime.streams import command as streams
from runtime.streams.command import read_file
from runtime.streams.options import add_stream_options, check_combination, names, work_of
from runtime.text.texts import Text
from runtime.text_streams import predict_any

_COMMANDS = ("compile", "devices", "triton")
_DONE, _INTERRUPTED = 0, 130
_EPILOG = """\
--option NAME=VALUE takes these names and values:
{}

other commands; each lists its options with --help:
  python -m runtime triton DIR REPOSITORY
      write the bundle as a model repository for Triton
  python -m runtime DIR encode FILE --output STATES
      compute the states of the trunk once per text (bundles of `python -m exporter --split`)
  python -m runtime DIR run STATES
      compute tasks from these states
  python -m runtime compile DIR --provider NAME
      compile the graphs for a provider ahead of time, so that they open without a build
  python -m runtime devices
      list the execution providers, their devices, what auto takes, and what to install for the others

exit status: 0 done; 2 wrong use, bad input, or a bundle or provider that does not work; 130 interrupted or terminated

examples:
  python -m runtime onnx --text "The new phone is fast, and the screen is gorgeous."
  python -m runtime onnx --provider openvino --verify
  python -m runtime onnx --file texts.txt --tasks news_topic,tweet_sentiment --json
  python -m runtime onnx --file texts.jsonl --tasks news_topic --skip-errors --output topics.jsonl
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: those after `python -m runtime`; by default those of this process.

    Returns:
        The exit status: 0 done, 2 wrong use or bad input, 130 interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with terminable(), shown("runtime", logging.StreamHandler()):
            if list(arguments[:1]) == ["triton"]:
                with written():
                    return triton.main(arguments[1:])
            second = arguments[1] if len(arguments) > 1 and not arguments[0].startswith("-") else ""
            if (command := states_commands.COMMANDS.get(second)) is not None:
                if not arguments[0]:
                    raise InputError("DIR: must not be empty")
                for line in command(arguments[0], arguments[2:]):
                    print_text(line)
                return _DONE
            if list(arguments[:1]) == ["compile"]:
                for line in compile_ahead.command(arguments[1:]):
                    print_text(line)
                return _DONE
            if list(arguments[:1]) == ["devices"]:
                print_text(devices.described(arguments[1:]))
                return _DONE
            _check_command(arguments)
            print_text(_predict(_parser().parse_args(arguments)))
    except AdapterDropError as error:
        text = str(error)
        return failed(printable(as_called(as_options(text) if isinstance(error, InputError) else text)))
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        discard_output()
    except KeyboardInterrupt:
        print_error("interrupted")
        return _INTERRUPTED
    return _DONE


def _check_command(arguments: Sequence[str]) -> None:
    """Raise InputError for a mistyped command: the first argument, else the name of a folder, or the one after the folder."""
    if not arguments or arguments[0].startswith("-"):  # what follows may be a value of this option
        return
    named = (("neither a folder nor", _COMMANDS), ("not", states_commands.COMMANDS))
    for given, (is_no, commands) in zip(arguments, named, strict=False):
        if (nearest := nearest_command(given, commands)) and not Path(given).exists():
            raise InputError(f"{given!r} is {is_no} a command{nearest}")


def _predict(options: argparse.Namespace) -> str:
    """Run inference on the texts that the options name, and format the predictions."""
    check_combination(options)
    texts: list[Text] = []
    if options.output is None:
        texts = [*options.texts, *(read_file(options) if options.file else ())]
        if not texts and not options.verify:
            raise InputError("no text: give some with --text, --pair or --file")
    tasks = names(options.tasks)
    # For a single call, packing the weights of all graphs would take longer than the call, unless a cache keeps them
    given = Options(threads=options.threads, cache=options.cache, share_weights=options.cache is not None)
    settings = read_settings(options.settings, given)
    to_run = bool(texts) or options.output is not None
    verify = True if options.verify and to_run else None  # without texts, all graphs are compared below, once
    # The actors of an engine have the provider; here the arguments are checked
    provider = options.provider if options.engine is None else "cpu"
    predictor = load(options.folder, provider=provider, drop=options.drop, verify=verify, options=settings)
    if not to_run:
        return _verified(predictor, options.json)
    tasks = with_added(predictor, options.added, tasks)
    if options.output is not None:
        return streams.run(predictor, tasks, options)
    predictions = _predictions(predictor, texts, tasks, options)
    nodes = predictor.node_counts() if options.nodes else None
    if options.json:
        return as_json(predictor, texts, predictions, nodes)
    return as_text(predictor, texts, predictions, nodes, options.top_k)


def _verified(predictor: Predictor, as_json: bool) -> str:
    """Compare the provider with the probe, and format the differences."""
    rows = predictor.verify()
    if as_json:
        return json.dumps({"provider": predictor.provider, "verified": [asdict(row) for row in rows]})
    return "\n".join([f"provider {predictor.provider}", *described(rows)])


def _predictions(
    predictor: Predictor, texts: Sequence[Text], tasks: Sequence[str] | None, options: argparse.Namespace
) -> dict[str, Sequence[Prediction]]:
    """The predictions of all tasks; those of sentence embeddings are their vectors."""
    entries = predictor.entries(tasks)
    work = work_of(options, tasks)
    if options.prompt_name is not None and not any(entry.head == "sentence_embedding" for entry in entries):
        raise InputError(f"--prompt-name: none of the tasks is a sentence embedding, found {options.prompt_name!r}")
    # The predictor has only the drop that was asked for
    return predict_any(predictor, texts, entries, None, work.options, options.prompt_name)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m runtime",
        description="Run inference on texts with an exported bundle.",
        epilog=_EPILOG.format(describe()),
    )
    parser.add_argument("folder", metavar="DIR", help="the folder that `python -m exporter` wrote")
    # One destination for both keeps the order of the command line
    add = parser.add_argument
    add(
        "--text",
        type=str,
        dest="texts",
        action="append",
        default=[],
        metavar="TEXT",
        help="a text; write --text=-… for one that starts with a dash; may be repeated",
    )
    add(
        "--pair",
        type=str,
        dest="texts",
        action="append",
        nargs=2,
        metavar=("A", "B"),
        help="a pair of texts, for example a question and its context; may be repeated",
    )
    add("--file", metavar="F", help=TEXT_FILE)
    add_task_options(parser)
    add(
        "--provider",
        type=_provider,
        metavar="NAME",
        default="auto",
        help=f"execution provider: {', '.join(NAMES)}, or a name of ONNX Runtime such as coreml, dml or qnn; default auto, "
        "which takes the best one that works on this machine",
    )
    add(
        "--drop",
        type=int,
        metavar="N",
        help="the variant without adapters in the lowest N layers; default: the first exported",
    )
    add("--threads", type=int, metavar="N", help="threads within one operator; default: one per usable physical core")
    add("--cache", metavar="DIR", help="folder that keeps packed weights, TensorRT engines and OpenVINO graphs for later calls")
    add(
        "--option",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of sessions or providers, such as openvino.precision=bf16 or cuda.device=1; may be repeated, see below",
    )
    add(
        "--verify",
        action="store_true",
        help="compare the logits of the provider with those that the export verified; without texts, print the differences",
    )
    add("--nodes", action="store_true", help="also print how many nodes of the graph each provider ran")
    add_text_options(parser)
    add("--prompt-name", metavar="NAME", help="the prompt of sentence embeddings; default: that of each task, if it has one")
    add("--json", action="store_true", help="print one JSON object on standard output")
    add_stream_options(parser)
    return parser


def _provider(name: str) -> str:
    if name.lower() != "auto":
        try:
            find(name)
        except ProviderError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix("provider: ")) from error
    return name
