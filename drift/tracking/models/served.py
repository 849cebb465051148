"""How MLflow's pyfunc loads a registered model: this file lies beside the weights and needs transformers, not drift.

`predict` takes a table with a column `question` and, where there are images, `image`: a file's path or base64.
"""

from __future__ import annotations

import base64
import contextlib
import io
from pathlib import Path
from typing import Any

MAX_NEW_TOKENS = 2048


class ImageTextModel:
    """A checkpoint with its processor; greedy answers, one question at a time."""

    def __init__(self, path: str) -> None:
        import torch
        import transformers

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.processor = transformers.AutoProcessor.from_pretrained(path)
        model: Any = transformers.AutoModelForImageTextToText.from_pretrained(path, dtype="auto")
        self.model = model.to(device).eval()

    def predict(self, table: Any, params: dict[str, Any] | None = None) -> list[str]:
        """The replies. `params`: `max_new_tokens`."""
        tokens = int((params or {}).get("max_new_tokens", MAX_NEW_TOKENS))
        return [self._reply(row["question"], row.get("image"), tokens) for row in table.to_dict("records")]

    def _reply(self, question: str, image: Any, tokens: int) -> str:
        images = [_opened(image)] if isinstance(image, str) and image else []
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": question}]
        turns = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        inputs = self.processor(text=[text], images=images or None, add_special_tokens=False, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        made = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        reply = made[0][inputs["input_ids"].shape[1] :]
        return str(self.processor.tokenizer.decode(reply, skip_special_tokens=True)).strip()


def _opened(image: str) -> Any:
    from drift_decoding import as_seen  # lies beside this file
    from PIL import Image

    source = Path(image) if len(image) < 4096 and Path(image).is_file() else io.BytesIO(base64.b64decode(image))
    with Image.open(source) as opened:
        return as_seen(opened)


def _load_pyfunc(path: str) -> ImageTextModel:
    with contextlib.suppress(ImportError):  # where drift is, it is installed as its README says, without a GPU too
        from drift.ground.torchvision import allow_cuda_torchvision_on_cpu

        allow_cuda_torchvision_on_cpu()
    return ImageTextModel(path)
