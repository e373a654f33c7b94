"""Explanations of failed traces: the module, the operator or argument, and what to try."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_OPERATOR = re.compile(r"\b(?:torch\.ops\.)?((?:aten|prims|torchvision|quantized|higher_order)(?:\.|::)\w+(?:\.\w+)?)")
_ARGUMENT = re.compile(r"(unexpected keyword argument '\w+'|missing \d+ required \w+ arguments?: .+)")
# Headings of torch's messages, which state nothing.
_HEADINGS = re.compile(
    r"^(?:Failed to (?:export|decompose|convert|run)|The following inconsistencies|Constraints violated|## |- Create|"
    r"<class .*>:\s*$|Next steps|Exception summary|While executing|\(Refer to the full stack trace|Dynamo failed to run)"
)
_EAGER = 'load the model with attn_implementation="eager"'
SIZES = f"the model's code fixes the batch or the length of the text: {_EAGER}, or compute sizes from the inputs' shapes"
# Part of a message or the name of an exception -> what to try; the first that is found.
_REMEDIES = (
    (
        ("data-dependent", "DataDependent", "data dependent", "Dynamic control flow", "local_scalar_dense"),
        f"the code decides by the values of a tensor, which a graph cannot: {_EAGER}, or rewrite the branch with torch.where",
    ),
    (
        ("unexpected keyword argument", "required positional argument"),
        "the model's code does not fit the installed transformers, or its forward does not take input_ids, attention_mask and, "
        "with several segments, token_type_ids: give a model of a transformers class",
    ),
    (
        ("complex-valued", "complex64"),
        "the model computes with complex numbers, which ONNX does not have, as DeepSeek-V2 does for its positions: train the "
        "adapters on a model without them",
    ),
    (
        ("No ONNX function", "No decompositions registered", "DispatchError", "OpOverload", "not supported by the ONNX"),
        f"torch.onnx has no form of the operator: {_EAGER}, or replace the operator in the model's code",
    ),
    (
        ("onstraint", "inconsistencies", "specializ", "mark_dynamic", "dynamic shape"),
        SIZES,
    ),
    (
        ("skipped", "torch.compiler.disable", "Attempted to call function marked", "graph break", "Unsupported"),
        "the code calls a function that cannot be traced: replace it, or install no package that takes its place",
    ),
)
_DEFAULT = f"{_EAGER}, or export the task of another class of model"
_BROKEN = (
    "PyTorch cannot run it either, without an export: correct the model, or train an adapter of other layers or another type"
)


def explain(error: BaseException, handled: BaseException | None = None, runs: bool = True) -> str:
    """Return why a trace failed, on one line: reason, module with the line of its code, operator, and what to try.

    Args:
        error: what torch.export or torch.onnx raised, with its causes.
        handled: the exception that was being handled when the trace began; it is not one of the causes.
        runs: whether PyTorch runs the model.
    """
    chain = list(causes(error, handled))
    # The innermost cause knows the reason, the outer ones what torch was doing.
    reason = next((line for cause in reversed(chain) if (line := _reason(cause))), type(error).__name__)
    texts = "\n".join(f"{type(cause).__name__} {cause}" for cause in chain)
    parts = [reason]
    operator = next((found[1] for cause in reversed(chain) if (found := _OPERATOR.search(str(cause)))), None)
    if operator and operator not in reason:
        parts.append(f"operator {operator}")
    if place := _place(chain) or _place_in_text(texts):
        parts.append(place)
    return f"{', '.join(parts)}; try this: {_remedy(texts, _DEFAULT if runs else _BROKEN)}"


def causes(error: BaseException, handled: BaseException | None = None) -> Iterator[BaseException]:
    """Yield an exception, its cause, and so on, up to an exception that was being handled before."""
    seen = {id(handled)}
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    if argument := next((line for line in lines if _ARGUMENT.search(line)), None):
        return argument
    told = [line for line in lines if not _HEADINGS.match(line)]
    if lines and told and "inconsistencies" in lines[0]:
        return "; ".join(line.lstrip("- ") for line in told[:2])
    return re.sub(r"^<class '[\w.]*?(\w+)'>: ", r"\1: ", told[0]) if told else ""


def _place(causes: list[BaseException]) -> str | None:
    """The last line of the model's code that ran, and the module it belongs to."""
    own = (Path(torch.__file__).parent, Path(__file__).parent)
    for cause in reversed(causes):
        calls = list(traceback.walk_tb(cause.__traceback__))
        modules = [each for frame, _ in calls if isinstance(each := frame.f_locals.get("self"), nn.Module)]
        for frame, line in reversed(calls):
            path, module = Path(frame.f_code.co_filename), frame.f_locals.get("self")
            if isinstance(module, nn.Module) and path.is_file() and not any(path.is_relative_to(each) for each in own):
                return f"in {_name(module, modules)} ({path.name}:{line})"
    return None


def _name(module: nn.Module, callers: list[nn.Module]) -> str:
    """The dotted name in the outermost caller; torch.export traces proxies, which share the attributes of the modules."""
    own = vars(module)
    names = (name for caller in callers for name, found in caller.named_modules() if vars(found) is own and name)
    name = next(names, "").removeprefix("model.")
    return f"{name} ({type(module).__name__})" if name else type(module).__name__


def _place_in_text(texts: str) -> str | None:
    """The last line of code in a stack trace that torch has written into its message."""
    found = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', texts)
    places = [each for each in found if f"{Path(torch.__file__).parent}" not in each[0]]
    return f"in {places[-1][2]} ({Path(places[-1][0]).name}:{places[-1][1]})" if places else None


def _remedy(texts: str, default: str) -> str:
    return next((remedy for signs, remedy in _REMEDIES if any(sign in texts for sign in signs)), default)
