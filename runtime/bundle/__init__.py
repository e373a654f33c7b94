"""The bundle format: the manifest `adapterdrop.json`, its entries and the check of the files."""

from runtime.bundle.entries import InputEntry, ParityRow, PassRow, TaskEntry, TaskLayers, VariantEntry
from runtime.bundle.files import BoundFolder, check_files, open_bundle
from runtime.bundle.interface import (
    FIRST_TASKS,
    HEADS,
    INPUTS,
    OUTPUTS,
    ROUTE_INPUTS,
    ROUTED_HEADS,
    HeadType,
    InputType,
    output_names,
)
from runtime.bundle.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    MODEL,
    TOKENIZER,
    WEIGHTS,
    Manifest,
    digest,
    read_manifest,
    routed_file,
    slots_file,
    text_file,
)
from runtime.bundle.probe import Probe, probe_file
from runtime.bundle.probe_entry import FLOATS, Floats, ProbeEntry
from runtime.bundle.split_entry import SplitEntry, StateEntry, split_files

__all__ = [
    "FIRST_TASKS",
    "FLOATS",
    "FORMAT_VERSION",
    "HEADS",
    "INPUTS",
    "MANIFEST",
    "MODEL",
    "OUTPUTS",
    "ROUTED_HEADS",
    "ROUTE_INPUTS",
    "TOKENIZER",
    "WEIGHTS",
    "BoundFolder",
    "Floats",
    "HeadType",
    "InputEntry",
    "InputType",
    "Manifest",
    "ParityRow",
    "PassRow",
    "Probe",
    "ProbeEntry",
    "SplitEntry",
    "StateEntry",
    "TaskEntry",
    "TaskLayers",
    "VariantEntry",
    "check_files",
    "digest",
    "open_bundle",
    "output_names",
    "probe_file",
    "read_manifest",
    "routed_file",
    "slots_file",
    "split_files",
    "text_file",
]
