"""The same bundle in LitServe, which batches the requests.

python examples/serving/litserve_app.py onnx --port 8000

LitServe ends its workers on SIGINT (Ctrl-C), not on SIGTERM.
"""

import argparse
from typing import Any

import litserve

import runtime


class Tasks(litserve.LitAPI):  # type: ignore[misc,unused-ignore]  # without types
    """Tasks of a bundle, for {"text": …} or {"text": [first, second]}."""

    def __init__(self, folder: str, tasks: list[str] | None = None, **batching: Any) -> None:
        """Keep the folder, which each worker loads, and the names of the tasks; None for all."""
        super().__init__(**batching)
        self.folder, self.tasks = folder, tasks

    def setup(self, device: str) -> None:
        """Load the bundle in a worker."""
        self.predictor = runtime.load(self.folder, provider="cuda" if device.startswith("cuda") else "cpu")

    def decode_request(self, request: dict[str, Any]) -> Any:
        """Return the text of a request, or both of a pair; an error here would be that of all requests in the batch."""
        text = request.get("text")
        return tuple(text) if isinstance(text, list) else text

    def predict(self, x: list[Any], **_: Any) -> list[dict[str, Any]]:
        """Compute a batch of texts; one that is invalid does not end the others."""
        rows = self.predictor.predict_iter(x, self.tasks, on_error=lambda index, error: errors.update({index: str(error)}))
        errors: dict[int, str] = {}
        found = [{task: prediction.to_dict() for task, prediction in row.items()} for row in rows]
        return [{"error": errors[index]} if index in errors else row for index, row in enumerate(found)]

    def encode_response(self, output: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the response of a text."""
        return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--tasks", type=lambda names: names.split(","), help="A,B: answer these; by default all tasks")
    given = parser.parse_args()
    tasks = Tasks(given.folder, given.tasks, max_batch_size=32, batch_timeout=0.005)
    server = litserve.LitServer(tasks, accelerator="cpu", timeout=60, max_payload_size=4_000_000)
    server.run(host="127.0.0.1", port=given.port, generate_client_file=False)
