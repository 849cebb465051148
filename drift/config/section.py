"""Strict sections, and validation errors on one line: the dotted key, the value and the remedy."""

from __future__ import annotations

import difflib
import typing
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from drift.ground.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Layered = Annotated[str, Field(pattern=r"^(attn|mlp|router|norm|re:.+)$")]
"""A module of every merge: head and embeddings stay the multimodal model's."""
Module = Annotated[str, Field(pattern=r"^(attn|mlp|router|norm|head|embed|re:.+)$")]


def _fills(placeholder: str) -> AfterValidator:
    """A template of the user's turn in which exactly ``{placeholder}`` is replaced."""

    def check(template: str) -> str:
        try:
            filled = template.format(**{placeholder: "\0"})
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            remedy = "write other braces double, as in \\boxed{{}}"
            raise ValueError(f"only {{{placeholder}}} is replaced; {remedy}") from error
        if "\0" not in filled:
            raise ValueError(f"must contain '{{{placeholder}}}'")
        return template

    return AfterValidator(check)


ProblemTemplate = Annotated[str, _fills("problem")]
QuestionTemplate = Annotated[str, _fills("question")]


class Section(BaseModel):
    """A part of the configuration: frozen, strict, and each field says what it means."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


@dataclass(frozen=True)
class KeysOf:
    """Marks a mapping whose keys are those of a section, which it overrides."""

    section: type[BaseModel]


SectionType = typing.TypeVar("SectionType", bound=BaseModel)


def validate(section: type[SectionType], raw: Any, where: str = "") -> SectionType:
    """`raw` as a `section`. Raises ConfigError: the dotted key, the value and the remedy, on one line."""
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_one_line(section, error, where)) from error


def to_json(section: BaseModel) -> str:
    """A section as one line of JSON: what goes into a pipeline parameter. Stable in its key order."""
    return section.model_dump_json(by_alias=True)


def from_json(section: type[SectionType], text: str) -> SectionType:
    """The inverse of `to_json`."""
    try:
        return section.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(_one_line(section, error, section.__name__)) from error


def suggest(wrong: str, known: typing.Iterable[str]) -> str:
    """`; did you mean 'alpha'?`, or the known names where none is near."""
    known = list(known)
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"


def _one_line(section: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors(include_url=False)[0]
    parts = [str(part) for part in first["loc"]]
    key = ".".join(filter(None, [where, *_without_tags(section, first["loc"])])) or section.__name__.lower()
    if first["type"] == "extra_forbidden":
        remedy = _elsewhere(section, first["loc"]) or suggest(parts[-1], _keys_at(section, first["loc"][:-1]))
        return f"{key}: unknown key{remedy}"
    if first["type"] == "union_tag_not_found":
        return f"{key}.kind: required, but not set; known: local, vllm, endpoint"
    if first["type"] == "missing":
        return f"{key}: required, but not set"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and isinstance(first["input"], dict | BaseModel):
        return message if not key or key == "config" else f"{key}: {message}"
    return f"{key}: {message[0].lower()}{message[1:]} (got {first['input']!r:.80})"


def _without_tags(section: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The location without the tag that pydantic adds for the alternatives of a union."""
    keys: list[str] = []
    for position, part in enumerate(location):
        tags = {"local", "vllm", "endpoint", "ready"} if position and location[position - 1] == "teacher" else set()
        if part not in tags:
            keys.append(str(part))
    return keys


def _keys_at(section: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at `location` knows."""
    models = _models_at(section, location)
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def _models_at(section: type[BaseModel], location: typing.Sequence[int | str]) -> set[type[BaseModel]]:
    """The section at `location`, or those of a union."""
    current: set[type[BaseModel]] = {section}
    for part in location:
        named = [pair for model in current for pair in model.model_fields.items()]
        fields = [field for name, field in named if part in (name, field.alias)]
        if fields:
            current = {model for field in fields for model in _models_in(field.annotation)}
        else:
            current = {model for model in current if part in _kinds(model)} or current
    return current


def _elsewhere(section: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """`; did you mean 'train.learning_rate'?`, for a key that is there in another place.

    Below the innermost section around it that has it, as `arms.sft.train.learning_rate`; the highest three there.
    """
    *around, wrong = location
    for depth in range(len(around), -1, -1):
        inside = [path for model in _models_at(section, around[:depth]) for path in _paths_below(model, str(wrong))]
        if inside:
            here = "".join(f"{part}." for part in _without_tags(section, tuple(around[:depth])))
            found = sorted({f"{here}{path}" for path in inside}, key=lambda path: (path.count("."), path))[:3]
            return f"; did you mean {' or '.join(map(repr, found))}?"
    return ""


def _paths_below(section: type[BaseModel], key: str) -> typing.Iterator[str]:
    """The same of a section that overrides another one in one of its fields."""
    yield from _paths_to(section, key)
    for name, field in section.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, KeysOf):
                yield from (f"{name}.{path}" for path in _paths_to(mark.section, key))


def _paths_to(section: type[BaseModel], key: str) -> typing.Iterator[str]:
    """Where sections have the key, dotted; what has a name of the user's is NAME."""
    for name, field in section.model_fields.items():
        own = field.alias or name
        if own == key:
            yield own
        inside = f"{own}.NAME" if "dict[" in str(field.annotation) else own
        for model in sorted(_models_in(field.annotation), key=lambda one: one.__name__):
            yield from (f"{inside}.{path}" for path in _paths_to(model, key))


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    """The sections inside a type such as `dict[str, Section] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for inner in typing.get_args(annotation) for model in _models_in(inner)}


def _kinds(section: type[BaseModel]) -> tuple[Any, ...]:
    """The values of `kind` that choose this section in a union."""
    return typing.get_args(section.model_fields["kind"].annotation) if "kind" in section.model_fields else ()
