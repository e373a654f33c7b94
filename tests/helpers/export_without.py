"""Exports a model of one family in a process that cannot import the other family's library, and prints what happened.

python -m tests.helpers.export_without LIBRARY FOLDER
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import exporter
from exporter.families import has_adapterhub, has_peft


class Hiding:
    """A finder of modules that finds all but one package."""

    def __init__(self, hidden: str) -> None:
        self.hidden = hidden
        self.finders = list(sys.meta_path)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] == self.hidden:
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in found if spec is not None), None)

    def find_distributions(self, context: Any) -> Iterable[importlib.metadata.Distribution]:
        for finder in self.finders:
            for found in getattr(finder, "find_distributions", lambda _: ())(context):
                if found.metadata["Name"] != self.hidden:
                    yield found


def _import_all(hidden: str) -> int:
    """Import the modules of exporter, without those of the hidden library's family and Optimum's command."""
    count = 0
    for module in pkgutil.walk_packages(exporter.__path__, "exporter."):
        other = "__main__", "optimum_command"  # Optimum, which reads that file, may not be installed
        if not module.name.endswith(other) and not (hidden == "adapters" and ".adapterhub" in module.name):
            importlib.import_module(module.name)
            count += 1
    return count


def _refusal(model: Path, adapter: Path, content: dict[str, Any]) -> str:
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps(content))
    try:
        exporter.export(str(model), adapters=[str(adapter)], output=model.parent / "refused")
    except exporter.ExportError as error:
        return str(error)
    return ""


def _peft(folder: Path) -> tuple[float, str]:
    """Export two PEFT adapters from folders; return the difference from PEFT and the refusal of another adapter."""
    from transformers import BertForSequenceClassification

    from tests.helpers.tiny_models import inputs, run_graph
    from tests.helpers.tiny_peft import METHODS, answer, config, peft_model

    base = BertForSequenceClassification(config())
    base.save_pretrained(folder / "base")
    model = peft_model(METHODS["patterns"], ("one", "two"), base)
    model.save_pretrained(str(folder))
    exporter.export(str(folder / "base"), adapters=[str(folder / "one"), str(folder / "two")], output=folder / "onnx")
    feeds = inputs((3, 5))
    found = run_graph(folder / "onnx", feeds)
    worst = 0.0
    for name in ("one", "two"):
        model.set_adapter(name)
        worst = max(worst, float(np.abs(found[name] - answer(model, feeds).logits.numpy()).max()))
    return worst, _refusal(folder / "base", folder / "other", {"name": "other", "config": {}})


def _adapterhub(folder: Path) -> tuple[float, str]:
    from transformers import BertForSequenceClassification

    from tests.helpers.tiny_models import bert_config, inputs, reference, run_graph, tiny_model

    model = tiny_model({"one": ("seq_bn", "2"), "two": ("lora", "3")})
    exporter.export(model, output=folder / "onnx")
    BertForSequenceClassification(bert_config()).save_pretrained(folder / "base")
    feeds = inputs((3, 5))
    found = run_graph(folder / "onnx", feeds)
    worst = max(float(np.abs(found[name] - reference(model, name, feeds)).max()) for name in ("one", "two"))
    return worst, _refusal(folder / "base", folder / "other", {"peft_type": "LORA", "task_type": "SEQ_CLS"})


if __name__ == "__main__":
    library, output = sys.argv[1], Path(sys.argv[2])
    sys.meta_path[:] = [Hiding(library)]
    modules = _import_all(library)
    difference, refusal = (_peft if library == "adapters" else _adapterhub)(output)
    there = {"adapters": has_adapterhub(), "peft": has_peft()}
    loaded = [name for name in there if name in sys.modules]
    print(json.dumps({"modules": modules, "difference": difference, "refusal": refusal, "there": there, "loaded": loaded}))
