"""The record of graphs that a provider compiled ahead of time, in a folder `compiled/…` of a bundle.

The manifest does not list these files: they belong to a machine, and a bundle works without them. Their record has their
hashes, and those of the files from which they were made.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.bundle.file_names import name_problems
from runtime.bundle.files import BoundFolder
from runtime.bundle.schema import decode, encode
from runtime.errors import BundleError

COMPILED: Final = "compiled"  # folder within a bundle, with a folder for each provider and device
RECORD: Final = "compiled.json"
_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Versions, device, processor and options for which graphs were compiled.

    Attributes:
        provider: the provider's name in ONNX Runtime.
        package: distribution and version of a plug-in; empty for a provider that ONNX Runtime contains.
        onnxruntime: version of ONNX Runtime.
        device: name and description of the device; empty if the provider does not tell.
        processor: architecture, and sha256 of the model and the instruction sets of the CPU.
        settings: options of the provider, without its cache; those within OpenVINO's load_config as DEVICE.NAME.
        session: entries of the session configuration.
    """

    provider: str
    package: str
    onnxruntime: str
    device: str
    processor: str
    settings: Mapping[str, str]
    session: Mapping[str, str]

    def differences(self, other: "Machine") -> list[str]:
        """Describe what `other` does not share with this machine, on which graphs were compiled."""
        mine, theirs = (dict(_flat(encode(each))) for each in (self, other))
        names = [name for name in {**mine, **theirs} if mine.get(name, "") != theirs.get(name, "")]
        return [f"{name} {mine.get(name) or 'none'}, not {theirs.get(name) or 'none'}" for name in names]


def _flat(entries: Mapping[str, str | Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    for name, value in entries.items():
        if isinstance(value, str):
            yield name, value
        else:
            yield from value.items()


@dataclass(frozen=True, kw_only=True)
class CompiledGraph:
    """One compiled graph.

    Attributes:
        file: file name of the compiled graph.
        sources: file name in the bundle -> sha256 of the graph and its weights at that time.
    """

    file: str
    sources: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class CompiledEntry:
    """The record `compiled.json`. The JSON keys are these fields.

    Attributes:
        version: version of the format.
        machine: what the compiled graphs depend on.
        graphs: file name of a graph of the bundle -> its compiled graph.
        files: file name -> sha256 in hex of every other file in the folder.
    """

    version: int = _VERSION
    machine: Machine
    graphs: Mapping[str, CompiledGraph]
    files: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Write the record. Raises OSError."""
        text = json.dumps(encode(self), indent=2, ensure_ascii=False) + "\n"
        (folder / RECORD).write_text(text, encoding="utf-8", newline="\n")

    @classmethod
    def read(cls, files: BoundFolder) -> "CompiledEntry":
        """Read and check the record of a folder.

        Raises:
            BundleError: it is missing or not a record of this version.
        """
        try:
            document = json.loads(files.read_first(RECORD).decode("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{RECORD}: cannot be read: {error}") from error
        problems: list[str] = []
        entry = decode(cls, document, "", problems)
        if not problems:
            problems = list(_problems(entry))
        if problems:
            raise BundleError(f"{RECORD}: {'; '.join(problems[:10])}")
        return entry  # type: ignore[no-any-return]  # decode() returns Any: the type is its argument


def _problems(entry: CompiledEntry) -> Iterator[str]:
    if entry.version != _VERSION:
        yield f"version: expected {_VERSION}, found {entry.version}"
    yield from name_problems(entry.files, RECORD)
    for graph, compiled in entry.graphs.items():
        if compiled.file not in entry.files:
            yield f"graphs[{graph!r}].file: expected one of the listed files, found {compiled.file!r}"
        if graph not in compiled.sources:
            yield f"graphs[{graph!r}].sources: expected the graph itself, found {', '.join(compiled.sources) or 'none'}"
