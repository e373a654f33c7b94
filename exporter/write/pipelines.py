"""Heads and types of models that the pipelines of transformers.js load."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from runtime.bundle import HeadType

__all__ = ["MODEL_TYPES", "PIPELINES", "TYPED_TOKENIZERS", "VERSION"]

VERSION: Final = "4.3.1"  # of transformers.js, in which the types below are listed (src/models/registry.js)

# First input of a model -> head -> the pipeline that reads its outputs. That of images computes the softmax over all labels,
# which are no scores of a multilabel task.
PIPELINES: Final[Mapping[str, Mapping[HeadType, str]]] = MappingProxyType(
    {
        "input_ids": {
            "classification": "text-classification",
            "multilabel": "text-classification",
            "regression": "text-classification",
            "tagging": "token-classification",
            "question_answering": "question-answering",
            "masked_lm": "fill-mask",
            "hidden_states": "feature-extraction",
        },
        "pixel_values": {"classification": "image-classification"},
    }
)

_ENCODERS: Final = frozenset(
    [
        "bert",
        "camembert",
        "convbert",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "mpnet",
        "neobert",
        "roberta",
        "roformer",
        "xlm",
        "xlm-roberta",
    ]
)
_MOBILE: Final = frozenset(["albert", "mobilebert", "squeezebert"])
_NEWER: Final = frozenset(["esm", "eurobert", "modernbert"])
_IMAGES: Final = frozenset(
    [
        "beit",
        "convnext",
        "convnextv2",
        "deit",
        "dinov2",
        "dinov2_with_registers",
        "efficientnet",
        "fastvit",
        "hiera",
        "ijepa",
        "mobilenet_v1",
        "mobilenet_v2",
        "mobilenet_v3",
        "mobilenet_v4",
        "mobilevit",
        "mobilevitv2",
        "pvt",
        "resnet",
        "segformer",
        "swin",
        "vit",
        "vit_msn",
    ]
)

# Classes of tokenizers, without "Fast", that give token types in transformers.js. For others, its models read zeros.
TYPED_TOKENIZERS: Final = frozenset(
    f"{name}Tokenizer"
    for name in [
        "Albert",
        "Bert",
        "ConvBert",
        "Deberta",
        "DebertaV2",
        "Electra",
        "Herbert",
        "MobileBert",
        "RoFormer",
        "SqueezeBert",
        "XLM",
    ]
)

# Pipeline -> types of models; a pipeline that is not here takes a model of an unknown type as well.
MODEL_TYPES: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "text-classification": _ENCODERS | _MOBILE | _NEWER | {"bart", "mbart"},
        "token-classification": _ENCODERS | _NEWER | {"openai_privacy_filter"},
        "question-answering": _ENCODERS | _MOBILE,
        "fill-mask": _ENCODERS | _MOBILE | _NEWER,
        "image-classification": _IMAGES,
    }
)
