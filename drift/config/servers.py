"""Servers that speak OpenAI's chat completions: a teacher, a model under evaluation, a judge."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from drift.config.section import Count, Fraction, Positive, Section

Parameter = Literal[
    "temperature", "top_p", "max_tokens", "seed",
    "frequency_penalty", "presence_penalty", "top_k", "min_p", "repetition_penalty",
]  # fmt: skip
"""What is sent with a request unless it is left out."""


class PriceConfig(Section):
    """What a million tokens cost, in any currency."""

    prompt: float = Field(ge=0)
    """A million tokens of prompts."""
    completion: float = Field(ge=0)
    """A million tokens of replies."""

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """What so many tokens cost."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


class EndpointConfig(Section):
    """Any server that speaks OpenAI's chat completions, such as vLLM."""

    base_url: str | list[str]
    """Or a list, of servers of the same model: a request goes to the one with the fewest in flight, and to one that did
    not answer three times running only half a minute later again."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself never stands in a file."""
    concurrency: Count = 64
    """Requests in flight, at all servers together."""
    timeout_seconds: Positive = 600
    """For one request."""
    max_retries: int = Field(8, ge=0)
    """Of a request that meets 408, 409, 429, 5xx or no answer; of one whose reply is malformed, at most three."""
    neutral: bool = True
    """Send neutral penalties, `top_p`, `top_k` and `min_p` with every request, so that no default of the server or the
    checkpoint decides. Some servers refuse what OpenAI's API does not know; false leaves all of them to the server."""
    omit: list[Parameter] = Field(default_factory=list)
    """Parameters that are not sent, such as `[temperature, top_p]` for reasoning models that refuse them."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The name under which `max_new_tokens` is sent; OpenAI's reasoning models know the second alone."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """More to send with every request, such as `{chat_template_kwargs: {enable_thinking: true}}`."""
    system: str | None = None
    """A system message before every question."""
    requests_per_minute: Positive | None = None
    """To all servers together, tries again included; null is no limit."""
    tokens_per_minute: Positive | None = None
    """Of prompts and replies together; null is no limit."""
    price_per_million: PriceConfig | None = None
    """What tokens cost; with it the cost is told."""
    max_price: Positive | None = None
    """The run stops before the replies of one output have cost more; what was drawn is kept. Null is no limit."""

    @property
    def urls(self) -> list[str]:
        """All servers."""
        return [self.base_url] if isinstance(self.base_url, str) else self.base_url

    def deciding(self) -> dict[str, Any]:
        """What of these settings decides what is asked, where it is set: older work stays valid."""
        named = {"omit": self.omit or None, "extra_body": self.extra_body or None, "system": self.system}
        return {name: value for name, value in named.items() if value is not None}

    @field_validator("base_url", mode="before")
    @classmethod
    def _addresses(cls, base_url: Any) -> Any:
        listed = base_url if isinstance(base_url, list) else [base_url]
        if not listed or not all(isinstance(url, str) for url in listed):
            raise ValueError("must be the URL of a server, or a list of some")
        return base_url

    @model_validator(mode="after")
    def _price_is_known(self) -> Self:
        if self.max_price is not None and self.price_per_million is None:
            raise ValueError("max_price: needs price_per_million, {prompt: ..., completion: ...}")
        return self


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
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """More to send with every request, such as `{chat_template_kwargs: {enable_thinking: true}}`."""
    system: str | None = None
    """A system message before every question."""
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
        return self.model_dump(mode="json", include={"max_model_len", "args", "extra_body", "system"})

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
    """URL of the server, with its `/v1`."""
    model: str
    """Name under which the server has it."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself never stands in a file."""
    temperature: float = Field(0.0, ge=0)
    """0 is greedy."""
    concurrency: Count = 16
    """Requests in flight."""
    timeout_seconds: Positive = 7200
    """For judging all benchmarks together."""
    max_failed: Fraction = 0.01
    """More answers of a benchmark that the judge did not decide than this share stop the run."""
    python: str | None = None
    """Python that has VLMEvalKit; null: of the variable DRIFT_VLMEVALKIT_PYTHON, else `.venv-vlmeval/bin/python`."""
