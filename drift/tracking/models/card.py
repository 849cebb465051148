"""The model card of a registered version: how it was made, of what, what it scored, why it passed, how to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drift.config.catalog import ROLES
from drift.ground.artifacts import PROVENANCE, read_json

UNKNOWN = "not known"


def made_how(model: Path) -> dict[str, Any]:
    """The provenance of a model directory; empty where it has none, as one that was made elsewhere."""
    return dict(read_json(model / PROVENANCE)) if (model / PROVENANCE).is_file() else {}


def score_text(decision: Mapping[str, Any], role: str) -> str:
    """Of the winner, in percent with its interval; '' where the gate did not say."""
    mean = _winner(decision).get(role)
    return f"{mean['mean']:.1f} ({mean['low']:.1f} to {mean['high']:.1f})" if mean else ""


def metrics_of(decision: Mapping[str, Any]) -> dict[str, float]:
    """What the gate measured of the winner, as metrics of its model: scores in percent and differences in points."""
    mine = _winner(decision)
    means = {role: mine[role] for role in ROLES if mine.get(role)} | mine.get("columns", {})
    against = decision.get("comparisons", {}).get(decision.get("winner"), {})
    gains = {f"gain/{role}": against[role]["points"] for role in ROLES if against.get(role)}
    return {f"score/{name}": float(mean["mean"]) for name, mean in means.items()} | gains


def write_card(name: str, version: str, decision: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """The card in Markdown. ``version``: a number, or an alias while there is none yet."""
    parts = (
        _front(name, provenance),
        [f"# {name} {version}", *_method(decision, provenance)],
        ["## Parents and their licences", *_parents(provenance)],
        ["## Scores", *_scores(decision)],
        ["## Gate", *_gate(decision)],
        ["## Use", *_use(name, version)],
    )
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _winner(decision: Mapping[str, Any]) -> Mapping[str, Any]:
    models: Mapping[str, Any] = decision.get("measured", {}).get("models", {})
    return models.get(str(decision.get("winner")), {})


def _front(name: str, provenance: Mapping[str, Any]) -> list[str]:
    """The header that Hugging Face reads, should the directory be published there."""
    bases = [one["uri"] for one in provenance.get("parents", []) if one.get("licence")]
    of = [f"base_model: [{', '.join(bases)}]"] if bases else []
    return ["---", "library_name: transformers", "pipeline_tag: image-text-to-text", f"model_name: {name}", *of, "---"]


def _method(decision: Mapping[str, Any], provenance: Mapping[str, Any]) -> Iterator[str]:
    config = provenance.get("config", {})
    if provenance.get("step") == "merge":
        how = f"a merge ({config.get('method', UNKNOWN)}) of a multimodal model and a text model that reasons"
    elif config.get("prior"):
        how = "fine-tuning with gradients biased towards a text model that reasons (DRIFT, arXiv 2510.15050)"
    else:
        how = "supervised fine-tuning" if config else UNKNOWN
    yield f"\nArm `{decision.get('winner')}`, made by {how}."
    if data := _input(provenance, "training_set"):
        yield f"Trained on `{data['uri']}` (SHA-256 {str(data['sha256'])[:12]}), {config.get('epochs')} epochs."
    yield f"Made {provenance.get('created', UNKNOWN)} by drift {provenance.get('drift_version', UNKNOWN)}."


def _input(provenance: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return next((one for one in provenance.get("inputs", []) if one["name"] == name), None)


def _parents(provenance: Mapping[str, Any]) -> Iterator[str]:
    parents = provenance.get("parents", [])
    if not parents:
        yield "\nNot known: the model's provenance names none."
        return
    yield "\n| parent | checkpoint | licence |\n|---|---|---|"
    for one in parents:
        yield f"| {one['role']} | `{one['uri']}` | {one['licence'] or 'not stated where it lies'} |"
    yield "\nWhoever serves or passes on this model is bound by all of them."


def _scores(decision: Mapping[str, Any]) -> Iterator[str]:
    measured = decision.get("measured", {})
    models = measured.get("models", {})
    if not models:
        yield "\nNot known: the gate that passed it kept none."
        return
    yield f"\nPercent right, with {100 * measured['confidence']:.0f}% intervals.\n"
    yield f"| | {' | '.join(models)} |\n|---|{'---|' * len(models)}"
    columns = {name for one in models.values() for name in one["columns"]}
    for name in (*ROLES, *sorted(columns)):
        cells = [one.get(name) or one["columns"].get(name) for one in models.values()]
        yield f"| {name} | {' | '.join(map(_cell, cells))} |"
    said = measured["protocol"]
    how = ", ".join(f"{key} {said[key]}" for key in ("name", "version", "decoding", "max_new_tokens") if key in said)
    yield f"\nProtocol: {how}; fingerprint {measured['protocol_fingerprint'][:12]}, data"
    yield f"{measured['data_fingerprint'][:12]}."


def _cell(mean: Mapping[str, float] | None) -> str:
    return f"{mean['mean']:.1f} ({mean['low']:.1f} to {mean['high']:.1f})" if mean else "–"


def _gate(decision: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    for check in decision.get("checks", []):
        yield f"- {'passed' if check['passed'] else 'refused'}: {check['detail']}"
    yield f"- {decision.get('alias', 'The gate did not say who is better.')}"


def _use(name: str, version: str) -> Iterator[str]:
    yield f"""
    drift models download {name} {version} --out model      # checks that it is what was registered
    vllm serve ./model                                      # an OpenAI-compatible server
    drift ask --model {name}/{version} --image page.png "What is x?"

```python
from transformers import AutoModelForImageTextToText, AutoProcessor
processor = AutoProcessor.from_pretrained("model")
model = AutoModelForImageTextToText.from_pretrained("model", dtype="auto")
```

From MLflow alone, with transformers installed: `mlflow.pyfunc.load_model("models:/{name}/{version}")`, whose
`predict` takes a table of `question` and `image` (a file, or base64; may be left out)."""
