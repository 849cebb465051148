"""`train`: supervised fine-tuning, and the prior that biases it. Defaults are the paper's recipe."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from drift.config.section import Count, Fraction, Positive, Section


class ScheduleConfig(Section):
    """How the prior's strength changes over training. The paper's α is constant."""

    kind: Literal["constant", "linear", "cosine", "projection"] = "constant"
    """`linear` and `cosine` take α to 0 over the steps, `projection` as the weights approach the expert."""
    warmup: Fraction = 0.0
    """Share of the steps over which α rises from 0, for every kind."""
    end: float = Field(1.0, gt=0, le=1)
    """`linear`, `cosine`: share of the steps after which α is 0."""
    target: Positive = 1.0
    """`projection`: α falls linearly and is 0 when ⟨φ_t − φ_VL, Δ⟩/‖Δ‖² reaches this (1 = at the expert)."""
    start: float = Field(0.0, ge=0)
    """`projection`: α is whole up to this projection."""

    @model_validator(mode="after")
    def _start_below_target(self) -> Self:
        if self.start >= self.target:
            raise ValueError("start must be below target")
        return self


class PriorConfig(Section):
    """The gradient bias g~ = g + α·scale(g, Δ) (DRIFT, section 3)."""

    scale: Literal["absolute", "grad_norm", "adaptive", "adaptive_descent"] = "adaptive"
    """What α is multiplied by, beside the direction of Δ: docs/prior.md has the formulas."""
    alpha: float = -1.0
    """Negative pulls towards the expert, since the optimizer subtracts the gradient."""
    apply: Literal["step", "backward"] = "step"
    """`step`: once per optimizer step on the averaged gradient. `backward`: per micro-batch, as the released code."""
    clip: Literal["before", "after"] = "before"
    """Bias before gradient clipping (the paper's order), or after it."""
    rescale_to_weight: bool = False
    """`absolute` only: scale Δ to the norm of φ_VL's tensor first, as the released code does."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How α changes over the steps."""
    stop_at: Positive | None = None
    """End the training when ⟨φ_t − φ_VL, Δ⟩/‖Δ‖² has reached this (1 = at the expert), as seen at logged steps."""

    @model_validator(mode="after")
    def _rescale_is_absolute(self) -> Self:
        if self.rescale_to_weight and self.scale != "absolute":
            raise ValueError("rescale_to_weight only changes scale 'absolute'; remove it or set scale: absolute")
        if self.apply == "backward" and self.clip == "after":
            raise ValueError("apply 'backward' acts before clipping; set clip: before")
        if self.apply == "backward" and self.schedule.kind == "projection":
            raise ValueError("schedule 'projection' acts once per step; set apply: step, or another kind")
        return self


class LoraConfig(Section):
    """Low-rank adapters on the text decoder's projections (peft)."""

    rank: Count = 16
    """Of the two factors."""
    alpha: Positive = 32
    """peft's lora_alpha: the update is scaled by alpha/rank."""
    dropout: Fraction = 0.0
    """Of what goes into an adapter, while it trains."""
    modules: tuple[Literal["attn", "mlp"], ...] = Field(("attn", "mlp"), min_length=1)
    """Which projections get an adapter; a prior needs one for every matrix of its Δ."""
    base: Literal["whole", "4bit"] = "whole"
    """`4bit`: the frozen weights in 4 bits (QLoRA; a GPU and bitsandbytes); the adapters join the whole ones at the
    end."""
    save: Literal["merged", "adapter", "both"] = "merged"
    """What is left at the end: a whole model; the adapter alone, a PEFT folder (`drift train`; the chain needs a whole
    model); or the model with the adapter in its folder `adapter`."""

    @property
    def saves_model(self) -> bool:
        """Whether a whole model is left."""
        return self.save != "adapter"

    @property
    def saves_adapter(self) -> bool:
        """Whether the adapter is left."""
        return self.save != "merged"


class HeldOutConfig(Section):
    """Rows kept out of the training, to see how it goes on others, and when it has gone too far.

    Rows of kind `direct` are perception: `right` is the share whose answer the model gives word for word, greedily.
    """

    share: float = Field(0.02, gt=0, lt=1)
    """Of the rows, at least one; drawn by `seed` and the rows' ids."""
    table: str | None = None
    """Path of a training set to look at in place of the `direct` rows of the share: a small table of perception."""
    every: Count = 50
    """Steps from one look to the next; the first look is before the first step."""
    keep: Literal["last", "best"] = "last"
    """Which weights become the model: the last, or those of the look with the lowest loss."""
    patience: Count | None = None
    """Stop after so many looks in a row without a lower loss."""
    perception_drop: Fraction | None = None
    """Stop when perception's `right` has fallen by more than this since before the first step."""


class OnPolicyConfig(Section):
    """`method: on_policy`: what the student says of a problem's image, scored by the expert, who has it in words."""

    max_new_tokens: Count = 1024
    """Longest rollout; of one that is cut there, the tokens until then are learned."""
    temperature: float = Field(1.0, gt=0, le=10)
    """Of the draw, and of both distributions in the loss."""


class TrainConfig(Section):
    """Supervised fine-tuning, or on-policy distillation; with a prior it is DRIFT. Defaults: the paper's recipe."""

    method: Literal["sft", "on_policy"] = "sft"
    """`sft`: the training set's answers. `on_policy`: the reverse KL of the student's own answers to the text expert's
    distribution over them; every row needs `text_problem`, the problem in words."""
    on_policy: OnPolicyConfig = OnPolicyConfig()
    """How rollouts are drawn; `sft` draws none."""
    epochs: Positive = 3.0
    """Passes over the training set."""
    learning_rate: Positive = Field(1e-6, le=1e30)  # torch takes a float32
    """At its highest, after the warm-up."""
    lr_scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """How it falls after the warm-up, as in transformers."""
    warmup_ratio: Fraction = 0.05
    """Share of the steps over which it rises from 0."""
    per_device_batch_size: Count = 1
    """Rows of a micro-batch."""
    gradient_accumulation: Count = 1
    """Micro-batches of a step, on each rank."""
    loss: Literal["token", "micro_batch"] = "token"
    """What a step averages. `token`: over the answers' tokens of the whole batch, whatever its cut. `micro_batch`: over
    each micro-batch, then over micro-batches and ranks, as the released code; a short answer weighs as much as a long
    one, and the weights depend on the cut."""
    batches: Literal["random", "by_length"] = "random"
    """`by_length`: rows of like length stand together, for less padding; the order stays a function of `seed`."""
    packing: bool = False
    """Each micro-batch as one sequence without padding, in which a row sees itself alone; refused for a model that does
    not keep them apart."""
    max_grad_norm: float = Field(1.0, ge=0)
    """0 turns clipping off."""
    weight_decay: float = Field(0.0, ge=0)
    """Of AdamW, towards 0."""
    adam_beta1: Fraction = 0.9
    """Of Adam's mean of gradients."""
    adam_beta2: Fraction = 0.999
    """Of Adam's mean of squared gradients."""
    optimizer: Literal["adamw", "adamw_fused", "adamw_8bit"] = "adamw"
    """`adamw_fused` is torch's in one kernel, `adamw_8bit` keeps its moments in 8 bits (a GPU and bitsandbytes)."""
    bf16: bool = True
    """bfloat16 arithmetic over float32 master weights."""
    attention: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = None
    """transformers' `attn_implementation`; null is its own choice. The last two need a GPU, `bf16` and a package."""
    gradient_checkpointing: bool = True
    """Compute activations again in the backward pass: less memory, about a third more time."""
    cutoff_tokens: Count = 32768
    """Longer samples are left out (counted), never cut."""
    max_skipped: Fraction = 0.01
    """More samples left out than this share stop the run."""
    image_max_pixels: Count | None = 262144
    """Larger images are scaled down to this area; null leaves them."""
    freeze_vision: bool = True
    """Keep the vision tower and the projector as they are."""
    add_think_tokens: bool = False
    """Add <think> and </think> to the tokenizer, as the released code does."""
    deepspeed: str | None = None
    """Path of a DeepSpeed configuration, see configs/deepspeed/."""
    fsdp: bool = False
    """Shard weights, gradients and optimizer over the ranks by torch's FSDP2, in place of DeepSpeed; one rank alone has
    nothing to shard."""
    processes: Count | None = None
    """Ranks in all; null is one per GPU of every node, and one without a GPU. The global batch grows with them."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of the weights."""
    liger: bool = False
    """Use the fused kernels of the extra `liger` (needs a GPU)."""
    seed: int = 0
    """Of the order of the rows, and of all that is drawn."""
    threads: Count | None = None
    """CPU threads of torch; null leaves torch's own choice."""
    workers: int | None = Field(None, ge=0)
    """Processes of each rank that read, decode and tokenise rows ahead of the steps; null is up to 4 where there is a
    GPU, else none. The weights do not depend on it."""
    logging_steps: Count = 1
    """Steps from one logged line to the next."""
    save_steps: Count | None = None
    """Keep a checkpoint every so many steps, to go on from after a crash."""
    checkpoints: str | None = None
    """Path where checkpoints outlive the process or pod, such as a claim: a training that is started again, anywhere,
    goes on from its last whole one. Null keeps them beside the output alone."""
    grace_seconds: Positive = 25.0
    """After SIGTERM: a checkpoint is saved at the next step, and the training ends within this time. A cluster gives a
    pod 30 seconds."""
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Also tell these of every logged step, where their packages are installed; MLflow is told in any case."""
    held_out: HeldOutConfig | None = None
    """Rows to look at while it trains; null trains on all."""
    prior: PriorConfig | None = None
    """The gradient bias; null is plain SFT."""

    @model_validator(mode="after")
    def _one_way_to_shard(self) -> Self:
        if self.fsdp and self.deepspeed is not None:
            raise ValueError("fsdp and deepspeed both shard the weights; set one of them")
        if self.fsdp and self.lora is not None:
            raise ValueError(
                "fsdp with lora: the factors must be whole; use deepspeed with stage 2, or set fsdp: false"
            )
        return self

    @model_validator(mode="after")
    def _rollouts_can_be_drawn(self) -> Self:
        if self.method == "sft":
            return self
        if self.packing:
            raise ValueError("method on_policy with packing: rollouts are padded; set packing: false")
        if self.fsdp:
            raise ValueError("method on_policy with fsdp: rollouts need whole weights; use deepspeed with stage 2")
        if self.add_think_tokens:
            raise ValueError("method on_policy with add_think_tokens: the expert does not know them; set it to false")
        return self

    @property
    def distils(self) -> bool:
        """Whether the text expert takes part in the training."""
        return self.method == "on_policy"

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the best look become the model; until then a checkpoint keeps them."""
        return self.held_out is not None and self.held_out.keep == "best"

    @model_validator(mode="after")
    def _options_go_together(self) -> Self:
        if self.optimizer == "adamw_8bit" and (self.fsdp or self.deepspeed is not None):
            raise ValueError("optimizer adamw_8bit: its moments cannot be sharded; use adamw, or one way to shard less")
        if (self.attention or "").startswith("flash") and not self.bf16:
            raise ValueError(f"attention {self.attention} is for 16-bit arithmetic; set bf16: true, or sdpa")
        if self.lora is not None and self.lora.saves_adapter and self.add_think_tokens:
            raise ValueError(
                f"lora.save {self.lora.save} with add_think_tokens: an adapter holds no new rows of the embedding; "
                "set save: merged"
            )
        if self.lora is not None and self.lora.base == "4bit":
            if self.deepspeed is not None:
                raise ValueError(
                    "lora.base 4bit with deepspeed: 4-bit weights cannot be partitioned; remove one of them"
                )
            if self.prior is not None:
                raise ValueError("lora.base 4bit with a prior: it needs the whole matrices; set base: whole")
            if self.add_think_tokens:
                raise ValueError("lora.base 4bit with add_think_tokens: the embedding cannot grow; remove one of them")
        return self


KEPT_CHECKPOINTS = 2
"""Of a training with `save_steps`: its latest."""
WITHOUT_CONSEQUENCE = frozenset(
    {"logging_steps", "threads", "workers", "save_steps", "checkpoints", "grace_seconds", "report_to"}
)
"""Keys that do not decide the weights: a training that goes on may have others."""
