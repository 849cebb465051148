"""VLMEvalKit's one-by-one inference, timed; run by its own Python (`benchmarks.eval_throughput`).

    python -I vlmevalkit_inference.py FOLDER MODEL MAX_NEW_TOKENS

Reads `MMStar.tsv` in FOLDER and writes `vlmevalkit.json`: seconds of `infer_data_job`, and the replies.
"""

import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path


def driver():
    path = Path(__file__).parents[1] / "drift" / "evaluate" / "vlmevalkit.py"
    spec = importlib.util.spec_from_file_location("vlmevalkit", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wrapper(path, max_new_tokens):
    """A local checkpoint as VLMEvalKit's models are: one question after the other, in its own words."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from vlmeval.vlm.base import BaseModel

    class Local(BaseModel):
        INTERLEAVE = True

        def __init__(self):
            super().__init__()
            self.processor = AutoProcessor.from_pretrained(path)
            self.model = AutoModelForImageTextToText.from_pretrained(path, dtype="float32")

        @torch.inference_mode()
        def generate_inner(self, message, dataset=None):
            content = [
                {"type": "image"} if part["type"] == "image" else {"type": "text", "text": part["value"]}
                for part in message
            ]
            images = [Image.open(part["value"]).convert("RGB") for part in message if part["type"] == "image"]
            turn = [{"role": "user", "content": content}]
            text = self.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            inputs = self.processor(text=[text], images=images, return_tensors="pt")
            output = self.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
            new = output[:, inputs["input_ids"].shape[1] :]
            return self.processor.batch_decode(new, skip_special_tokens=True)[0].strip()

    return Local()


def main(folder, model, max_new_tokens):
    import torch

    torch.set_num_threads(1)
    os.environ |= {"LMUData": folder, "PRED_FORMAT": "tsv"}
    kit = driver()
    kit.import_vlmevalkit()
    from vlmeval.inference import infer_data_job

    dataset = kit.build_dataset("MMStar")
    local = wrapper(model, int(max_new_tokens))
    local.generate(dataset.build_prompt(0), dataset="MMStar")  # whatever is done only once
    with tempfile.TemporaryDirectory(dir=folder) as work:
        started = time.perf_counter()
        infer_data_job(local, work_dir=work, model_name="local", dataset=dataset)
        seconds = time.perf_counter() - started
        replies = [row["prediction"] for row in kit.read_table(Path(work, "local_MMStar.tsv"))]
    Path(folder, "vlmevalkit.json").write_text(json.dumps({"seconds": seconds, "replies": replies}))


if __name__ == "__main__":
    main(*sys.argv[1:])
