"""`gate` and `register`: when a model may be registered, and where."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drift.config.section import Count, Fraction, Name, Section


class GateConfig(Section):
    """When a candidate may be registered: better at reasoning, perception kept, no worse than any champion. Points of
    percent, paired; no single perception benchmark may be significantly worse either (Holm)."""

    candidate: Name
    """The arm that may be registered."""
    min_reasoning_gain: float = 0.0
    """The lower bound of its gain in mean reasoning on the unmodified VLM must lie above this."""
    max_perception_loss: float = Field(2.0, ge=0)
    """Margin of non-inferiority: the lower bound of its difference in mean perception must lie above minus this."""
    max_reasoning_loss: float = Field(2.0, ge=0)
    """The same for mean reasoning against the reigning champion and the best one ever, where there are any."""
    champion: Literal["better", "not_worse"] = "better"
    """Which model that passed takes the alias `champion`: one whose reasoning is above the reigning champion's, or any;
    `not_worse` is for those who want the newest data in service."""
    max_failed: Fraction = 0.01
    """At most this share of questions may have had no answer because of an error; here and below, of each side's."""
    max_truncated: Fraction = 0.1
    """At most this share of replies may have been cut at `max_new_tokens`."""
    max_unreadable: Fraction = 0.1
    """At most this share of replies may hold no readable answer."""
    min_clusters: Count = 30
    """Each role must rest on at least so many independent groups of questions."""
    looks: Count = 60
    """Attempts at one registered model on the same questions that `confidence` is for: the gain is tested at
    1 − (1 − confidence)/looks each time, so that all of them together pass a model without a gain as rarely as one."""
    beats: tuple[Name, ...] = ()
    """Arms whose reasoning it must also beat (point estimate)."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Of every bound and test, one-sided; of the gain, over all looks."""
    resamples: Count = 2000
    """Of the sign-flip test of single perception benchmarks."""
    seed: int = 0
    """Of the sign flips."""

    @property
    def look_confidence(self) -> float:
        """Of the gain at one look: 1 − α/looks."""
        return 1 - (1 - self.confidence) / self.looks


class RegisterConfig(Section):
    """Where a model that passed goes."""

    model: Name
    """Name of the registered model in MLflow; the gate counts its looks under it."""
    promotion: Literal["auto", "manual"] = "auto"
    """Who moves the alias `champion` to the new version: the run, where the gate says so, or a person, by
    `drift models promote`; the version stays a `candidate` until then."""
