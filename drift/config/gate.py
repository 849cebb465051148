"""`gate` and `register`: when a model may be registered, and where."""

from __future__ import annotations

from pydantic import Field

from drift.config.section import Count, Fraction, Name, Section


class GateConfig(Section):
    """When a candidate may be registered: better at reasoning, perception kept, no worse than the champion. Points of
    percent, paired; no single perception benchmark may be significantly worse either (Holm)."""

    candidate: Name
    """The arm that may be registered."""
    min_reasoning_gain: float = 0.0
    """The lower bound of its gain in mean reasoning on the unmodified VLM must lie above this."""
    max_perception_loss: float = Field(2.0, ge=0)
    """Margin of non-inferiority: the lower bound of its difference in mean perception must lie above minus this."""
    max_reasoning_loss: float = Field(2.0, ge=0)
    """The same for mean reasoning against the registry's champion, where there is one."""
    max_failed: Fraction = 0.01
    """At most this share of its questions may have had no answer because of an error."""
    max_truncated: Fraction = 0.1
    """At most this share of its replies may have been cut at `max_new_tokens`."""
    beats: tuple[Name, ...] = ()
    """Arms whose reasoning it must also beat (point estimate)."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Of every bound and test, one-sided."""
    resamples: Count = 2000
    """Of the paired bootstrap."""
    seed: int = 0


class RegisterConfig(Section):
    """Where a model that passed goes."""

    model: Name
    """Name of the registered model in MLflow."""
    promote: bool = True
    """Move the alias `champion` to the new version; without, it stays at `candidate`."""
