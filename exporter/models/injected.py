"""Models into which PEFT adapters were injected: by transformers (model.add_adapter), or as a PeftMixedModel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from exporter.models.peft_modules import adapted

__all__ = ["InjectedModel", "as_peft_model"]


class InjectedModel(nn.Module):
    """A model with injected adapters as a PeftModel, as far as the exporter uses one.

    Attributes:
        model: the transformers model.
        peft_config: adapter name -> its configuration.
    """

    def __init__(self, model: Any, peft_config: Mapping[str, Any]) -> None:
        """Set the model, which is not changed.

        Args:
            model: a transformers model with injected adapters.
            peft_config: adapter name -> its configuration.
        """
        super().__init__()
        self.model = model
        self.peft_config = dict(peft_config)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the model, such as its configuration."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)

    @property
    def base_model(self) -> InjectedModel:
        """The object that switches the adapters."""
        return self

    def get_base_model(self) -> Any:
        """Return the transformers model, including its adapters."""
        return self.model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        return self.model(*args, **kwargs)

    def set_adapter(self, name: str) -> None:
        """Activate one adapter."""
        for _, module in list(adapted(self.model)):
            present = name in module._get_available_adapters()
            # The wrapper of a module to save raises for an adapter that it does not have.
            module.set_adapter(name if present or not hasattr(module, "modules_to_save") else [])

    def delete_adapter(self, name: str) -> None:
        """Remove one adapter; another one must be active."""
        for _, module in list(adapted(self.model)):
            if hasattr(module, "original_module"):
                module.delete_adapter(name, new_active_adapters=list(module.active_adapters))
            else:
                module.delete_adapter(name)
        del self.peft_config[name]

    def enable_adapter_layers(self) -> None:
        """Compute the active adapter."""
        self._enable(True)

    def disable_adapter_layers(self) -> None:
        """Compute the base model."""
        self._enable(False)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Compute the base model in a context."""
        self._enable(False)
        try:
            yield
        finally:
            self._enable(True)

    def _enable(self, enabled: bool) -> None:
        for _, module in adapted(self.model):
            module.enable_adapters(enabled)


def as_peft_model(model: Any) -> Any:
    """Return a live model with PEFT adapters as a model with the functions of a PeftModel; a PeftModel unchanged.

    Args:
        model: a model for which `exporter.models.peft_modules.is_peft` is true.
    """
    from peft import PeftMixedModel, PeftModel

    if isinstance(model, PeftModel | InjectedModel):
        return model
    if isinstance(model, PeftMixedModel):
        return InjectedModel(model.base_model.model, model.peft_config)
    return InjectedModel(model, model.peft_config)
