"""Word-level tokenizer, chat template and processor shared by all models of the family.

``decode`` joins words with spaces, so chains stay readable: ``<think> … </think> \\boxed{ 0 }``. These words are
ordinary vocabulary; only the chat and image markers are special tokens. Unknown words become ``<unk>``.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from drift.planning.miniature.render import CELL_PIXELS
from drift.planning.miniature.world import LABELS, MODULUS, OPERATORS

PAD, START, END, UNKNOWN = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"
VISION_START, VISION_END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = [PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO, UNKNOWN]
MAX_CELLS = 16  # images are scaled to at most so many cells of 28 x 28 px

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}{{ content | trim }}
{%- else -%}
{%- for block in content -%}
{%- if block.type == 'image' or 'image' in block -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif 'text' in block -%}{{ block.text | trim }}{%- if not loop.last -%}{{ ' ' }}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}{{- text(message.content) + '<|im_end|>' -}}{%- endgeneration -%}
{{- '\\n' -}}
{%- else -%}
{{- text(message.content) + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def vocabulary() -> list[str]:
    """All tokens in order of their ids: special tokens, then words."""
    words = ["system", "user", "assistant", "value", "of", "read", "all", "compute"]
    words += ["<think>", "</think>", "\\boxed{", "}", "[", "]", "=", ";", "?", ".", ",", ":"]
    words += [*OPERATORS, *map(str, range(10)), *LABELS]
    words += [f"{label}{value}" for label in LABELS for value in range(MODULUS)]
    return SPECIAL_TOKENS + words


def build_tokenizer() -> Any:
    """The tokenizer with its chat template; pads on the left, so it can generate in batches."""
    tokenizer = Tokenizer(WordLevel({word: id for id, word in enumerate(vocabulary())}, unk_token=UNKNOWN))
    punctuation = pre_tokenizers.Split(Regex(r"\\boxed\{|[{}\[\]()?.,:;=+*-]"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), punctuation])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=[START, VISION_START, VISION_END, IMAGE, VIDEO],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_processor() -> Any:
    """Qwen2.5-VL processor whose image tokens are one per cell of 28 x 28 px."""
    area = CELL_PIXELS * CELL_PIXELS
    limits: dict[str, Any] = {"min_pixels": area, "max_pixels": MAX_CELLS * area}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**limits),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**limits),
        chat_template=CHAT_TEMPLATE,
    )
