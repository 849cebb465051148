"""The reference: every key from the schema, every command from typer, every public name from the faces.

`make golden` writes it into docs/reference/.
"""

import importlib
import inspect
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import drift.cli.app  # noqa: F401  # every command
from drift.cli.options import app
from drift.config.file import schema
from tests.unit.test_interface import FACES, names_of

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
SCHEMA = schema()
ROOT = "the top of the file"
Tree = dict[str, Any]


def held(name: str, text: str) -> None:
    """Whether a page is as it is written here; with DRIFT_UPDATE_GOLDEN it is written."""
    page = REFERENCE / name
    if os.environ.get("DRIFT_UPDATE_GOLDEN"):
        page.write_text(text, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == text, "make golden, and look at the diff"


def cell(text: str) -> str:
    """Text in a table's cell: one line, and outside of code no tag."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(part if place % 2 else part.replace("<", "&lt;") for place, part in enumerate(parts))


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


# ------------------------------------------------------------------------------------------------ keys


def definition(tree: Tree) -> str | None:
    """The section that a property is, alone; its name in the schema."""
    return tree["$ref"].rpartition("/")[2] if "$ref" in tree else None


def alternatives(tree: Tree) -> list[Tree]:
    """What a property may be."""
    return tree.get("anyOf") or tree.get("oneOf") or [tree]


def inside(tree: Tree) -> Tree | None:
    """What a list or a mapping by name holds."""
    inner = next(
        iter(tree.get("patternProperties", {}).values()), tree.get("items") or tree.get("additionalProperties")
    )
    return inner if isinstance(inner, dict) else None


def below(path: str, key: str, tree: Tree) -> Iterator[tuple[str, str]]:
    """(section's name, where it stands) of those that a property holds."""
    here = key if path == ROOT else f"{path.partition(',')[0]}.{key}"
    for one in alternatives(tree):
        if name := definition(one):
            kind = SCHEMA["$defs"][name]["properties"].get("kind", {}).get("const")
            yield name, f"{here}, kind {kind}" if kind and "oneOf" in tree else here
        elif inner := inside(one):
            yield from below(path, f"{key}[]" if "items" in one else f"{key}.NAME", inner)


def sections() -> dict[str, str]:
    """Every section once, by its name in the schema: the first place where it stands, in the order of the file."""
    found: dict[str, str] = {}

    def walk(path: str, tree: Tree) -> None:
        for key, held in tree["properties"].items():
            for name, place in below(path, key, held):
                if name not in found:
                    found[name] = place
                    walk(place, SCHEMA["$defs"][name])

    walk(ROOT, SCHEMA)
    return found


SECTIONS = sections()
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def kind(tree: Tree) -> str:
    """What a property may be, in words; a section as a link to it."""
    return " or ".join(dict.fromkeys(one_kind(one) for one in alternatives(tree)))


def one_kind(tree: Tree) -> str:
    if name := definition(tree):
        return f"[section](#{anchor(SECTIONS[name])})"
    if "enum" in tree or "const" in tree:
        return ", ".join(f"`{one}`" for one in tree.get("enum", [tree.get("const")]))
    if inner := inside(tree):
        return f"{'list of' if 'items' in tree else 'by name:'} {kind(inner)}"
    bounds = [f"{sign} {tree[bound]:g}" for bound, sign in BOUNDS.items() if bound in tree]
    words = {"string": "text", "object": "mapping", "array": "list", "boolean": "true or false"}
    return " ".join([words.get(tree.get("type", ""), tree.get("type", "anything")), ", ".join(bounds)]).strip()


def default(key: str, tree: Tree, section: Tree) -> str:
    if key in section.get("required", ()):
        return "required"
    if "default" not in tree:
        return ""
    value = tree["default"]
    if isinstance(value, dict) and value:
        return "its own"
    return "null" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"


def told(path: str, key: str, tree: Tree) -> str:
    """What a key means: its own text, that of the section it is, or the key of `ingest` in whose place it is."""
    named = [name for name, _ in below(path, key, tree)]
    if "description" in tree or named:
        return tree.get("description") or SCHEMA["$defs"][named[0]]["description"]
    return f"As `ingest.{key}`." if path == "ingest.sources[]" else ""


def keys() -> Iterator[tuple[str, str, Tree, Tree]]:
    """(path, key, property, section) of every key."""
    for path, section in [(ROOT, SCHEMA), *((path, SCHEMA["$defs"][name]) for name, path in SECTIONS.items())]:
        for key, tree in section["properties"].items():
            yield path, key, tree, section


def test_every_key_says_what_it_means() -> None:
    assert len(list(keys())) > 200
    assert [f"{path}: {key}" for path, key, tree, _ in keys() if not told(path, key, tree)] == []


def test_the_reference_of_the_configuration_is_the_schema() -> None:
    lines = [
        "# Every key of a configuration",
        "",
        "Written by `make golden` from `drift/config/`. A key that is left out has its default, an unknown one is an",
        "error. How files extend each other, and overrides: [own models](../own-models.md).",
    ]
    before = None
    for path, key, tree, section in keys():
        if path != before:
            lines += ["", f"## {path}", "", cell(section.get("description", "")), ""]
            lines += ["| key | what it may be | default | |", "|---|---|---|---|"]
        before = path
        row = (f"`{key}`", kind(tree), default(key, tree, section), told(path, key, tree))
        lines.append(f"| {' | '.join(map(cell, row))} |")
    held("configuration.md", "\n".join([*lines, ""]))


# -------------------------------------------------------------------------------------------- commands


def commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, in the order of the help."""
    for name, one in group.commands.items():
        if getattr(one, "commands", None):
            yield from commands(one, f"{path} {name}")
        elif not one.hidden:
            yield f"{path} {name}", one


COMMANDS = dict(commands(typer.main.get_command(app), "drift"))


def panel(path: str) -> str:
    """Where the help has a command, or the group that it is in."""
    top = typer.main.get_command(app).commands[path.split()[1]]  # type: ignore[attr-defined]
    return str(top.rich_help_panel)


def options(command: Any, path: str) -> list[tuple[str, str]]:
    """Flags with what they take, and help with the default, of every parameter that is shown."""
    context = command.make_context(path, [], resilient_parsing=True)
    records = [one.get_help_record(context) for one in command.params if not one.hidden]
    return [(f"`{flags}`", text) for flags, text in filter(None, records)]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_says_what_it_does(path: str) -> None:
    assert COMMANDS[path].help
    silent = [flags for flags, text in options(COMMANDS[path], path) if not text]
    assert silent == []


def test_the_reference_of_commands_is_their_help() -> None:
    lines = [
        "# Every command",
        "",
        "Written by `make golden` from `drift --help`. They end with 0 if they did what they were asked for, with 2",
        "and one line for a wrong input; `drift gate` ends with 3 if it refuses.",
    ]
    before = None
    for path, command in COMMANDS.items():
        if (room := panel(path)) != before:
            lines += ["", f"## {room}"]
        before = room
        lines += ["", f"### {path}", "", cell(command.help), ""]
        if rows := list(options(command, path)):
            lines += ["| option | |", "|---|---|"]
            lines += [f"| {' | '.join(map(cell, row))} |" for row in rows]
    held("commands.md", "\n".join([*lines, ""]))


# ---------------------------------------------------------------------------------------------- Python


@pytest.mark.parametrize("face", FACES)
def test_every_public_name_says_what_it_is(face: str) -> None:
    wing = importlib.import_module(f"drift.{face}")
    texts = {name: getattr(wing, name).__doc__ or "" for name in names_of(face)}
    written_by_dataclass = {name: text for name, text in texts.items() if text.startswith(f"{name}(")}
    assert [name for name in texts if not texts[name] or name in written_by_dataclass] == []


def shown(face: str, name: str) -> list[str]:
    """What mkdocstrings takes for a name; sections of a configuration without their keys, which have a page."""
    section = face == "config" and name.endswith("Config")
    return [f"::: drift.{face}.{name}", *(["    options: {members: false, show_bases: false}"] if section else []), ""]


def test_the_reference_of_python_has_every_public_name_of_every_face() -> None:
    lines = [
        "# From Python",
        "",
        "Written by `make golden` from the faces of the wings (`drift/*/__init__.pyi`). What stands here is imported",
        "from where it stands, `from drift.prior import Prior`, and changes only with a line in the CHANGELOG; all",
        "else may change without one. On the site (`make site`) each name has its signature and what it says of",
        "itself. What the keys of a section of `drift.config` mean: [every key](configuration.md). Two notebooks use",
        "some of it: [the prior in a loop](../notebooks/prior_in_a_loop.ipynb) and [a run's",
        "results](../notebooks/read_a_run.ipynb).",
    ]
    for face in FACES:
        summary = inspect.getdoc(importlib.import_module(f"drift.{face}")).partition("\n")[0]
        lines += ["", f"## drift.{face}", "", summary, ""]
        lines += [line for name in names_of(face) for line in shown(face, name)][:-1]
    held("python.md", "\n".join([*lines, ""]))
