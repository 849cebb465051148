"""What the steps read that a resources profile must give their pods: folders on claims, and keys from secrets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from components._images import role
from drift.config.chain import Config, key_variables
from drift.config.places import ASKS_FOR
from drift.config.plan import MODULES
from drift.ground.errors import ConfigError
from pipelines.placement import TRAINED, Resources

EVALUATIONS = ("evaluate_vlm", "evaluate_champion", "evaluate_arm")
READERS: Mapping[str, tuple[str, ...]] = {
    "ingest": ("inputs", "ingest"),
    "curate.ready": ("inputs", "ingest"),
    "generate.teacher.model": ("generate",),
    "curate.replay.source": ("inputs", "curate"),
    "curate.length.processor": ("curate",),
    "curate.against": ("inputs", "curate"),
    "models": ("inputs", "deltas", "arm"),
    "models.vlm": ("inputs", "deltas", "evaluate_vlm", "arm"),
    "models.start": ("inputs", "arm"),
    "deltas": ("inputs", "deltas"),
    "train.deepspeed": ("arm",),
    "arms": ("arm",),
    "merge.experts": ("inputs", "arm"),
    "train.checkpoints": ("arm",),
    "train.held_out.table": ("arm",),
    "generate.checkpoints": ("generate",),
    "evaluate.checkpoints": EVALUATIONS,
    "evaluate.data": EVALUATIONS,
}
"""The steps that read what a key names; of a key that is not here, those of its section."""
ONE_AFTER_ANOTHER = (
    {"inputs", "ingest", "generate", "curate"},
    {"inputs", "deltas"},
    {"inputs", "evaluate_vlm"},
    {"champion", "start"},
    {"champion", "evaluate_champion"},
    {"gate", "register"},
    {"gate", "report"},
)
"""Steps that never run at the same time, since each waits for the one before. Those of the arms do, arm by arm."""


def together(steps: Iterable[str]) -> bool:
    """Whether some of the steps can run at the same time."""
    return not any(set(steps) <= chain for chain in ONE_AFTER_ANOTHER)


def claim_of(config: Config, resources: Resources, key: str, path: str) -> str:
    """The claim that the path lies on. Raises ConfigError unless every step that reads the key mounts it."""
    mounted = {step: claim for step in MODULES if (claim := _mounted(resources, step, path))}
    if not mounted:
        raise ConfigError(f"{key}: {path} lies on no claim of the profile, and pods see no other folder; add a volume")
    claim = next(iter(mounted.values()))
    for step in _readers(config, key):
        if step not in mounted:
            raise ConfigError(
                f"{key}: {path} lies on the claim '{claim}', which the step '{step}' does not mount; "
                f"give the volume to roles.{role(step)} or steps.{step}"
            )
    return claim


def _readers(config: Config, key: str) -> list[str]:
    """The steps that read what the key names; with shards, those too that ask for them."""
    merges = key.startswith("arms.") and key.endswith("merge.experts")
    steps = READERS["merge.experts"] if merges else READERS.get(key) or READERS[key.partition(".")[0]]
    asking = ASKS_FOR if config.evaluate.shards > 1 else {}
    return [*steps, *(asker for asker, step in asking.items() if step in steps)]


def keys_of(config: Config) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each variable that holds a key of a server, and the steps that need it."""
    asking = ((config.generate, ("generate",)), (config.curate, ("curate",)), (config.evaluate, EVALUATIONS))
    for section, steps in asking:
        yield from ((name, steps) for name in sorted(key_variables(section)))


def check_secret(resources: Resources, variable: str, steps: tuple[str, ...]) -> None:
    """Raise ConfigError if one of the steps gets the variable from no secret."""
    for step in steps:
        if variable not in {name for secret in resources.of(step).secrets for name in secret.env.values()}:
            raise ConfigError(
                f"api_key_env: no secret gives the step '{step}' the variable '{variable}'; "
                f"name one in roles.{role(step)}.secrets or steps.{step}.secrets"
            )


def _mounted(resources: Resources, step: str, path: str) -> str | None:
    volumes = [(volume.claim, volume.path) for volume in resources.of(step).volumes]
    if step == TRAINED and resources.shared:
        volumes.append((resources.shared.claim, resources.shared.path))
    return next((claim for claim, at in volumes if Path(path).is_relative_to(at)), None)
