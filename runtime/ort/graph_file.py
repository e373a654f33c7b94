"""A graph that ONNX Runtime opens, and what is checked before and after it does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.bundle import BoundFolder
from runtime.errors import BundleError
from runtime.import_ort import ort
from runtime.ort.external_data import locations, rewrite

# The folder of external data of a graph that is given as bytes.
_FOLDER: Final = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True)
class GraphFile:
    """The graph `name` among the bound files of a folder."""

    files: BoundFolder
    name: str

    @property
    def path(self) -> Path:
        """Where it lies, for messages."""
        return self.files.path / self.name

    def session(self, settings: Any, requests: Any, by_path: bool = False) -> Any:
        """A session of the graph, over the bytes that were bound.

        The graph may take its weights from bound files only: ONNX Runtime would follow other names, and what it finds there
        would be in the answers.

        Args:
            settings: SessionOptions, which are changed.
            requests: the `providers` of an InferenceSession.
            by_path: ONNX Runtime reads the file itself, which providers need that read external data on their own.

        Raises:
            BundleError: the graph names other files, or a file changed since it was bound.
            Exception: ONNX Runtime's own, where it cannot load the graph.
        """
        try:
            return self._opened(settings, requests, by_path)
        except BundleError:
            raise
        except Exception:  # ONNX Runtime's exceptions have no common base but Exception
            self.files.check(by_path)
            # ONNX Runtime asks for the folder's path before it opens a file through the descriptor: a folder that is renamed
            # in between fails, though the files are there.
            return self._opened(settings, requests, by_path)

    def _opened(self, settings: Any, requests: Any, by_path: bool) -> Any:
        model, folder = self._checked()
        if by_path:
            session = ort.InferenceSession(str(self.path), settings, requests, enable_fallback=0)
        else:
            if folder is not None:
                settings.add_session_config_entry(_FOLDER, folder)
            session = ort.InferenceSession(model, settings, requests, enable_fallback=0)
        self.files.check(by_path)
        return session

    def external_files(self) -> list[str]:
        """The bound files that the graph takes weights from. Raises BundleError where it names others."""
        return self._named(self.files.read(self.name))

    def _named(self, model: bytes) -> list[str]:
        try:
            found = locations(model)
        except ValueError as error:
            raise BundleError(f"{self.path}: {load_failure(error)}") from error
        if strangers := [name for name in found if name not in self.files.hashes]:
            raise BundleError(
                f"{self.path}: expected weights in the files that the manifest lists, found "
                f"{', '.join(map(repr, strangers[:10]))}; do not use this bundle, or export it again"
            )
        return found

    def _checked(self) -> tuple[bytes, str | None]:
        """The graph with the real names of its files, and the folder where these are: a link leads elsewhere, and ONNX Runtime
        follows none that leaves the folder."""
        model = self.files.read(self.name)
        places = {name: self.files.place(name) for name in self._named(model)}
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
    return f"ONNX Runtime {ort.__version__} cannot load it: {error}"
