"""Graph files for ONNX Runtime, with checks before and after a session opens them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.bundle import BoundFolder
from runtime.errors import BundleError
from runtime.import_ort import ort
from runtime.options import GRAPH_FORMAT, ONNX_FORMAT, WEIGHTS_FOLDER
from runtime.ort.empty_tensors import safe_arguments
from runtime.ort.external_data import locations, rewrite
from runtime.ort.known_providers import CPU
from runtime.ort.plugins import is_older

# In messages of ONNX Runtime for files that exist, if their folder is renamed while it resolves the path
_RENAMED: Final = re.compile(r"canonical path|allowed directory|External data path does not exist|SystemError : 2\b")
_TRIES: Final = 5


@dataclass(frozen=True)
class GraphFile:
    """A graph in a bound folder.

    Attributes:
        files: the folder.
        name: file name of the graph, which may be in a folder of the bundle; its weights are in the same one.
        routed: whether it is a routed graph, in which tensors may be empty.
        compiled: whether a provider compiled it; its nodes then name files of the folder.
    """

    files: BoundFolder
    name: str
    routed: bool = False
    compiled: bool = False

    @property
    def path(self) -> Path:
        """Path of the graph, for messages."""
        return self.files.path / self.name

    def session(self, settings: Any, requests: Any, by_path: bool = False) -> Any:
        """Create a session from the bytes of the graph that were bound.

        A graph may refer only to bound files for its weights. ONNX Runtime would follow other names, and the contents of those
        files would appear in the logits.

        Args:
            settings: SessionOptions; they are changed.
            requests: argument `providers` of InferenceSession; None if the settings have a plug-in.
            by_path: let ONNX Runtime read the graph by its path, for providers that read external data themselves.

        Raises:
            BundleError: the graph refers to other files, or a file has changed since it was bound.
            Exception: an exception of ONNX Runtime, if it cannot load the graph.
        """
        graph, folder = self._checked()
        # A file can be a protobuf message and a graph in ORT's own format at once, whose files and operators are not checked
        settings.add_session_config_entry(GRAPH_FORMAT, ONNX_FORMAT)
        if folder is not None and not by_path:
            settings.add_session_config_entry(WEIGHTS_FOLDER, folder)
        more = safe_arguments() if self.routed else {}
        failure = ""
        for _ in range(_TRIES):
            try:
                # enable_fallback=0: by default ONNX Runtime prints a message and silently retries on the CPU
                opened = ort.InferenceSession(
                    str(self.path) if by_path else graph, settings, requests, enable_fallback=0, **more
                )
            except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
                self.files.check(by_path)
                failure = load_failure(error)
                if by_path or not _RENAMED.search(failure):
                    raise
            else:
                self.files.check(by_path)
                return opened
        raise self.files.changed(self.name, failure)

    def external_files(self) -> dict[str, str]:
        """Return the files that contain the weights of the graph.

        Returns:
            Name in the graph -> name in the bundle.

        Raises:
            BundleError: a file is not bound.
        """
        return self._named(self.files.read(self.name))

    def _named(self, model: bytes) -> dict[str, str]:
        try:
            names = locations(model, self.compiled)
        except ValueError as error:
            raise BundleError(f"{self.path}: {load_failure(error)}") from error
        folder, slash, _ = self.name.rpartition("/")
        found = {name: f"{folder}{slash}{name}" for name in names}
        if strangers := [name for name, file in found.items() if file not in self.files.hashes]:
            raise BundleError(
                f"{self.path}: expected weights in the files that the manifest lists, found "
                f"{', '.join(map(repr, strangers[:10]))}; do not use this bundle, or export it again"
            )
        return found

    def _checked(self) -> tuple[bytes, str | None]:
        """Read the graph, and resolve links: ONNX Runtime does not follow a link that leaves the folder.

        Returns:
            The graph, which refers to its weights by the names of the files themselves, and the folder of these files.
        """
        model = self.files.read(self.name)
        places = {name: self.files.place(file) for name, file in self._named(model).items()}
        folders = {folder for folder, _ in places.values()}
        if len(folders) > 1:
            raise BundleError(
                f"{self.path}: expected its weights {', '.join(places)} in one folder, found links to several; put the files "
                "themselves there"
            )
        if any(name != there for name, (_, there) in places.items()):
            model = rewrite(model, lambda entries: entries | {"location": places[entries["location"]][1]})
        return model, next(iter(folders), None)


def load_failure(error: Exception) -> str:
    """Return the message for a graph that ONNX Runtime cannot load."""
    older = f"; `pip install --upgrade onnxruntime` to {CPU.needs} or newer" if is_older(CPU.needs) else ""
    return f"ONNX Runtime {ort.__version__} cannot load it: {' '.join(str(error).split())}{older}"
