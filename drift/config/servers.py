"""Servers that speak OpenAI's chat completions: a teacher, a model under evaluation, a judge."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

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


OURS = (
    *("--host", "--port", "--uds", "--api-key", "--served-model-name", "--model", "--config", "--root-path"),
    *("--dtype", "--generation-config", "--trust-remote-code", "--tensor-parallel-size", "-tp"),
    *("--data-parallel-size", "-dp", "--max-model-len", "--gpu-memory-utilization", "--max-num-seqs"),
    "--limit-mm-per-prompt",
)
"""Options of `vllm serve` that a step sets itself, from a key of its own or so that it reaches its server alone."""


class VllmConfig(Section):
    """A server of vLLM that the step starts for a checkpoint on this machine, asks, and ends."""

    command: str | None = None
    """The executable `vllm`; null: of the variable DRIFT_VLLM, else in `.venv-vllm/bin`, beside our Python or on the
    path."""
    tensor_parallel: Count = 1
    """GPUs that one copy of the model is spread over."""
    data_parallel: Count | None = None
    """Copies of the model, behind one address; null is as many as this machine's GPUs hold."""
    max_model_len: Count | None = None
    """Tokens of a prompt and its answer together; null is the checkpoint's own limit, which may not fit the memory."""
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    """Share of a GPU's memory that vLLM takes; null is vLLM's own."""
    max_num_seqs: Count | None = None
    """Answers that a copy writes at once; null is vLLM's own."""
    images_per_prompt: Count | None = None
    """No more images in a prompt, and no video, so that vLLM keeps no memory for them; null sets no limit."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Off unless you have read that code."""
    args: tuple[str, ...] = ()
    """More arguments of `vllm serve`, such as `--enforce-eager`."""
    start_timeout_seconds: Positive = 1800
    """For loading the model and compiling its kernels."""
    concurrency: Count = 256
    """Requests in flight; vLLM lets those wait that it cannot batch yet."""
    timeout_seconds: Positive = 3600
    """For one request, with its wait."""

    def leaves_room_for(self, max_new_tokens: int) -> None:
        """Raise ValueError where vLLM would refuse every request: an answer may be as long as all that it holds."""
        if self.max_model_len is not None and self.max_model_len <= max_new_tokens:
            raise ValueError(
                f"max_model_len: {self.max_model_len} holds no prompt beside max_new_tokens ({max_new_tokens}); "
                "raise it, or lower the other"
            )

    def deciding(self) -> dict[str, Any]:
        """What may change an answer, besides model and dtype; the rest changes only the speed."""
        return self.model_dump(mode="json", include={"max_model_len", "args"})

    def copies(self, gpus: int) -> int:
        """Copies of the model on a machine with so many GPUs."""
        return self.data_parallel or max(1, gpus // self.tensor_parallel)

    def gpus(self, gpus: int) -> int:
        """GPUs that the server works on, of so many."""
        return self.tensor_parallel * self.copies(gpus)

    @field_validator("args")
    @classmethod
    def _args_are_none_of_ours(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        for given in args:
            name = given.partition("=")[0]
            if name.replace("_", "-") in OURS:
                raise ValueError(f"'{name}' is set by the step; remove it, or set its key beside args")
        return args


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
