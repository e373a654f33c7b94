"""`python -m runtime compile DIR --provider NAME`: which graphs of a bundle are compiled ahead of time."""

import os
from collections.abc import Iterator, Sequence

from runtime.bundle import open_bundle, slots_file
from runtime.checks.requests import check_drop
from runtime.command_options import CommandParser, add_session_options, describe, read_settings
from runtime.errors import InputError
from runtime.options import Options
from runtime.ort.compile import CompiledRow, compile_graphs
from runtime.ort.providers import resolve
from runtime.slots.hot_tasks import graphs_with_slots, read_layouts


def compile_bundle(
    folder: str | os.PathLike[str], provider: str, drop: int | None = None, options: Options | None = None
) -> list[CompiledRow]:
    """Compile the graphs of a bundle for a provider on this machine, so that `load` opens them without a build.

    The compiled graphs are stored in `compiled/` of the bundle with a record of what they depend on. `load` uses them only on
    the same processor and device, with the same versions and options, for the same graphs and weights.

    Args:
        folder: folder of the bundle; it must be writable.
        provider: name of the provider, as for `load`.
        drop: only the graphs of the variant with this drop; None for all.
        options: session options with which the bundle will be loaded.

    Returns:
        A row for each graph.

    Raises:
        BundleError: the folder is not a bundle, or one of its files is missing or altered.
        InputError: the provider is "cpu" or "auto", the drop was not exported, or the bundle cannot be written.
        ProviderError: the provider does not work, cannot compile ahead of time, or computes other logits than the probe.
    """
    if str(provider).lower() == "auto":
        raise InputError("provider: expected the name of a provider that compiles ahead of time, such as openvino, found auto")
    manifest, files = open_bundle(folder)
    check_drop(drop, manifest.drops, "exported")
    (found,) = resolve(provider, manifest)
    files.bind(manifest.files)
    graphs = []
    for variant in (manifest.variant(each) for each in (manifest.drops if drop is None else (drop,))):
        split = manifest.split(variant.drop)
        names = (variant.model, variant.routed, slots_file(variant.model), *(split.graphs if split else ()))
        graphs += [name for name in names if name in manifest.files]
    layouts = read_layouts(files, manifest, manifest.drops if drop is None else (drop,))
    slots = {graph: layout.total for graph, layout in graphs_with_slots(manifest, layouts).items()}
    return compile_graphs(files, manifest, graphs, found, Options() if options is None else options, slots)


def command(arguments: Sequence[str]) -> Iterator[str]:
    """Compile a bundle; yields what to print.

    Args:
        arguments: those after `compile`.
    """
    parser = CommandParser(
        prog="python -m runtime compile",
        description="Compile the graphs of a bundle for a provider on this machine, so that they open without a build.",
        epilog="--option NAME=VALUE takes these names and values:\n" + describe(),
    )
    parser.add_argument("folder", metavar="DIR", help="the folder that `python -m exporter` wrote")
    parser.add_argument("--provider", required=True, metavar="NAME", help="the provider, such as openvino")
    parser.add_argument("--drop", type=int, metavar="N", help="only the graphs of this drop; default: all")
    add_session_options(parser)
    given = parser.parse_args(arguments)
    options = read_settings(given.settings, Options(threads=given.threads))
    for row in compile_bundle(given.folder, given.provider, given.drop, options):
        if row.folder is None:
            yield f"{row.graph}: not compiled: provider {given.provider} takes none of its nodes"
        else:
            yield (
                f"{row.graph}: {row.bytes / 1e6:.1f} MB in {row.folder}, compiled in {row.compile_seconds:.1f} s, opens in "
                f"{row.open_seconds:.1f} s"
            )
