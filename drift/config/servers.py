"""Servers that speak OpenAI's chat completions: a teacher, a model under evaluation, a judge."""

from __future__ import annotations

from pydantic import Field

from drift.config.section import Count, Fraction, Positive, Section


class EndpointConfig(Section):
    """Any server that speaks OpenAI's chat completions, such as vLLM."""

    base_url: str
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself never stands in a file."""
    concurrency: Count = 64
    timeout_seconds: Positive = 600
    max_retries: int = Field(8, ge=0)
    neutral: bool = True
    """Send neutral penalties, `top_p`, `top_k` and `min_p` with every request, so that no default of the server or the
    checkpoint decides. Some servers refuse what OpenAI's API does not know; false leaves all of them to the server."""


class JudgeConfig(Section):
    """A judge model behind VLMEvalKit: any server that speaks OpenAI's chat completions."""

    base_url: str
    model: str
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself never stands in a file."""
    temperature: float = Field(0.0, ge=0)
    concurrency: Count = 16
    timeout_seconds: Positive = 7200
    """For judging all benchmarks together."""
    max_failed: Fraction = 0.01
    """More answers of a benchmark that the judge did not decide than this share stop the run."""
    python: str | None = None
    """Python that has VLMEvalKit; null: of the variable DRIFT_VLMEVALKIT_PYTHON, else `.venv-vlmeval/bin/python`."""
