"""Models and processors loaded from Hugging Face directories, with errors that name the directory."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from drift.config.models import is_adapter
from drift.ground.errors import CheckpointError, cause
from drift.ground.torchvision import allow_cuda_torchvision_on_cpu
from drift.weights.storage.checkpoints import ONLY_AN_ADAPTER


def load_processor(path: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Processor (tokenizer, image processor, chat template) of the model directory ``path``.

    Raises CheckpointError if the directory is missing, has no chat template or does not load.
    """
    _require_model_directory(path)
    allow_cuda_torchvision_on_cpu()
    from transformers import AutoProcessor

    try:
        processor: Any = AutoProcessor.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises many kinds
        raise CheckpointError(f"{path}: the processor does not load ({cause(error)})") from error
    if getattr(processor, "chat_template", None) is None:
        raise CheckpointError(f"{path}: the processor has no chat template; add chat_template.jinja")
    return processor


def load_vlm(path: str | Path, *, dtype: str = "auto", trust_remote_code: bool = False, **options: Any) -> Any:
    """Image-text-to-text model of the directory ``path`` on the CPU, in ``dtype``, in eval mode.

    ``options`` are transformers' own, such as `attn_implementation`.
    Raises CheckpointError if it does not load, if any weight was missing from the files, is NaN or is infinite.
    """
    return _loaded("AutoModelForImageTextToText", path, dtype=dtype, trust_remote_code=trust_remote_code, **options)


def load_text_model(path: str | Path, *, dtype: str = "auto") -> tuple[Any, Any]:
    """Language model of the directory ``path``, as `load_vlm` has a multimodal one, and its tokenizer.

    Raises CheckpointError if either does not load, or the tokenizer has no chat template.
    """
    _require_model_directory(path)
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(path))
    except Exception as error:  # transformers raises many kinds
        raise CheckpointError(f"{path}: the tokenizer does not load ({cause(error)})") from error
    if tokenizer.chat_template is None:
        raise CheckpointError(f"{path}: the tokenizer has no chat template; add chat_template.jinja")
    return _loaded("AutoModelForCausalLM", path, dtype=dtype), tokenizer


def _loaded(kind: str, path: str | Path, **options: Any) -> Any:
    """The model of a directory by one of transformers' Auto classes; ``kind`` is its name."""
    _require_model_directory(path)
    allow_cuda_torchvision_on_cpu()
    import transformers

    from drift.weights.storage.finite import require_finite_network  # torch

    _no_bars()
    try:
        model, info = getattr(transformers, kind).from_pretrained(str(path), output_loading_info=True, **options)
    except Exception as error:
        raise CheckpointError(f"{path}: the model does not load ({cause(error)})") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        named = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))[0]
        raise CheckpointError(f"{path}: weight '{named}' is missing or of another shape; the checkpoint is incomplete")
    require_finite_network(path, model)
    return model.eval()


def parameter_shapes(path: str | Path) -> dict[str, tuple[int, ...]] | None:
    """Name → shape of every parameter that the model of a directory has at run time; no weight is read.

    None for a configuration that transformers makes no image-text-to-text model of.
    """
    model = empty_model(path)
    return model and {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def empty_model(path: str | Path) -> Any | None:
    """The model of a directory without weights, on the device `meta`.

    None for a configuration that transformers makes no image-text-to-text model of.
    """
    allow_cuda_torchvision_on_cpu()
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config)
    except Exception:  # transformers raises many kinds
        return None


def linear_weights(model: Any) -> set[str]:
    """The names of the weights of a model's linear layers."""
    import torch

    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}


def stored_dtype(path: str | Path) -> Any:
    """The dtype a model directory says its weights have (torch.dtype); float32 where it says nothing."""
    import torch
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(str(path)).dtype or torch.float32


def _no_bars() -> None:
    """transformers draws bars of its own, into files too: only on a terminal and for who asks for more (`drift -v`)."""
    from transformers.utils import logging as transformers_logging

    if not (sys.stderr.isatty() and logging.getLogger().isEnabledFor(logging.INFO)):
        transformers_logging.disable_progress_bar()


def _require_model_directory(path: str | Path) -> None:
    if is_adapter(Path(path)):
        raise CheckpointError(f"{path}: {ONLY_AN_ADAPTER}")
    if not (Path(path) / "config.json").is_file():
        raise CheckpointError(f"{path}: not a model directory (no config.json)")
