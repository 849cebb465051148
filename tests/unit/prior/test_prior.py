"""The prior bound to a real model and optimizer: what one step does to the weights, and when it refuses."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import reference_hook
from drift.config.models import DeltaConfig
from drift.config.train import PriorConfig
from drift.ground.artifacts import read_json, write_json
from drift.ground.errors import PriorError
from drift.prior import gradient
from drift.prior.prior import Prior
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import DeltaFile, load_delta
from drift.weights.modeling import load_vlm
from drift.weights.naming.layout import match_parameters
from tests.tiny_models import tiny_family

LEARNING_RATE = 0.5
TOKENS = torch.arange(3, 15).reshape(2, 6)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return tiny_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def delta(family, tmp_path_factory) -> DeltaFile:
    out = tmp_path_factory.mktemp("delta") / "paper"
    compute_delta(DeltaConfig(), expert=str(family.expert), vlm=str(family.vlm), base=None, out=out)
    return load_delta(out)


def bound(family, delta, **config):
    model = load_vlm(family.vlm, dtype="float32")
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    prior = Prior(PriorConfig(**config), delta)
    return model, optimizer, prior, prior.bind(model, optimizer)


def backward(model, pieces=1):
    """The mean loss over the batch, in `pieces` equal micro-batches."""
    for tokens in TOKENS.chunk(pieces):
        (model(input_ids=tokens, labels=tokens).loss / pieces).backward()


def names(model, delta):
    return match_parameters({n: tuple(p.shape) for n, p in model.named_parameters()}, delta.shapes)


def test_every_element_of_delta_is_bound_exactly_once(family, delta):
    _, _, _, report = bound(family, delta)
    assert report.parameters == len(delta.names)
    assert report.elements == sum(torch.Size(shape).numel() for shape in delta.shapes.values())
    assert report.bytes == 4 * report.elements


@pytest.mark.parametrize("scale", ["absolute", "grad_norm", "adaptive", "adaptive_descent"])
def test_one_step_of_sgd_subtracts_the_guided_gradient_and_no_other_parameter_changes_its_step(family, delta, scale):
    model, optimizer, _, _ = bound(family, delta, scale=scale)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    backward(model)
    plain = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    guided = {runtime: canonical for canonical, runtime in names(model, delta).items()}
    assert guided.keys() <= plain.keys()
    for name, parameter in model.named_parameters():
        expected = plain.get(name, torch.zeros_like(parameter))
        if name in guided:
            expected = gradient.guide(scale, -1.0, expected, delta.tensor(guided[name]))
        torch.testing.assert_close(parameter.detach(), before[name] - LEARNING_RATE * expected)


SHORT = [{"rank": 4}, {"dtype": "int8"}, {"dtype": "float8_e4m3fn"}]


@pytest.fixture(scope="module", params=SHORT, ids=str)
def short(family, tmp_path_factory, request) -> DeltaFile:
    out = tmp_path_factory.mktemp("short") / "delta"
    config = DeltaConfig.model_validate(request.param)
    compute_delta(config, expert=str(family.expert), vlm=str(family.vlm), base=None, out=out)
    return load_delta(out)


@pytest.mark.parametrize("apply", ["step", "backward"])
def test_a_delta_that_is_not_stored_whole_guides_as_the_tensor_that_it_stands_for(family, short, delta, apply):
    model, optimizer, prior, report = bound(family, short, apply=apply)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    plain = load_vlm(family.vlm, dtype="float32")
    backward(plain)
    backward(model)
    optimizer.step()
    for canonical, name in names(model, short).items():
        expected = gradient.guide("adaptive", -1.0, dict(plain.named_parameters())[name].grad, short.tensor(canonical))
        torch.testing.assert_close(dict(model.named_parameters())[name], before[name] - LEARNING_RATE * expected)
    assert report.bytes < 0.7 * bound(family, delta)[3].bytes
    assert prior.projection() == pytest.approx(projection_of(model, family, short), rel=1e-4)


def projection_of(model, family, delta):
    """⟨φ_t − φ_VL, Δ⟩ / ‖Δ‖² by hand."""
    start, now = dict(load_vlm(family.vlm, dtype="float32").named_parameters()), dict(model.named_parameters())
    pairs = [((now[own] - start[own]).detach(), delta.tensor(name)) for name, own in names(model, delta).items()]
    return float(sum((moved * d).sum() for moved, d in pairs) / sum((d * d).sum() for _, d in pairs))


def test_the_step_mode_sees_the_accumulated_gradient_whatever_the_pieces(family, delta):
    ends = []
    for pieces in (1, 2):
        model, optimizer, _, _ = bound(family, delta)
        backward(model, pieces)
        optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-6)


def test_the_backward_mode_grows_with_the_number_of_pieces(family, delta):
    biases = {}
    for apply, pieces in [("step", 1), ("backward", 1), ("backward", 2)]:
        model, optimizer, _, _ = bound(family, delta, apply=apply, scale="grad_norm")
        name = names(model, delta)["layers.0.mlp.up_proj.weight"]
        weight = dict(model.named_parameters())[name]
        start = weight.detach().clone()
        backward(model, pieces)
        optimizer.step()
        plain = load_vlm(family.vlm, dtype="float32")
        backward(plain)
        biases[apply, pieces] = start - weight.detach() - LEARNING_RATE * dict(plain.named_parameters())[name].grad
    torch.testing.assert_close(biases["backward", 1], biases["step", 1], rtol=1e-4, atol=1e-6)
    assert biases["backward", 2].norm() > 1.05 * biases["step", 1].norm()


def test_guiding_before_clipping_is_the_papers_order_and_happens_once(family, delta):
    model, optimizer, prior, _ = bound(family, delta, scale="grad_norm")
    backward(model)
    prior.guide()
    total = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    assert total > 1e-3
    clipped = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    optimizer.step()  # must not guide again
    after = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert torch.equal(clipped, after) and clipped.norm() <= 1e-3 * 1.001


def test_alpha_zero_leaves_every_gradient_bit_for_bit(family, delta):
    model, optimizer, _, _ = bound(family, delta, alpha=0.0)
    backward(model)
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    optimizer.step()
    assert all(
        torch.equal(a, p.grad)
        for a, p in zip(before, [p for p in model.parameters() if p.grad is not None], strict=True)
    )


def set_between(model, delta, fraction):
    """Move the guided weights `fraction` of the way from φ_VL to the expert."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for canonical, runtime in names(model, delta).items():
            parameters[runtime].add_(fraction * delta.tensor(canonical))


def test_the_projection_is_0_at_the_vlm_and_1_at_the_expert(family, delta):
    model, _, prior, _ = bound(family, delta)
    assert prior.projection() == pytest.approx(0, abs=1e-5)
    set_between(model, delta, 1.0)
    assert prior.projection() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("at", "alpha"),
    # start 0.5, target 1: whole until 0.5, then falling in a straight line, and never pushing back.
    [(0.0, -1.0), (0.5, -1.0), (0.75, -0.5), (1.0, 0.0), (1.5, 0.0)],
)
def test_the_projection_schedule_lets_alpha_go_to_zero_at_its_target(family, delta, at, alpha):
    schedule = {"kind": "projection", "start": 0.5, "target": 1.0}
    model, optimizer, prior, _ = bound(family, delta, scale="grad_norm", schedule=schedule)
    set_between(model, delta, at)
    backward(model)
    optimizer.step()
    assert prior.metrics()["alpha_mean"] == pytest.approx(alpha, abs=1e-4)
    assert prior.metrics()["prior_ratio"] == pytest.approx(-alpha, abs=1e-4)


def test_unbinding_removes_the_bias(family, delta):
    model, optimizer, prior, _ = bound(family, delta)
    prior.unbind()
    backward(model)
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    optimizer.step()
    assert all(
        torch.equal(a, b.grad)
        for a, b in zip(before, [p for p in model.parameters() if p.grad is not None], strict=True)
    )


def test_metrics_are_those_of_the_formula(family, delta):
    model, optimizer, prior, _ = bound(family, delta)
    assert prior.metrics() == {}
    backward(model)
    cosines = []
    for canonical, runtime in names(model, delta).items():
        g, d = dict(model.named_parameters())[runtime].grad, delta.tensor(canonical)
        cosines.append(float(torch.nn.functional.cosine_similarity(g.flatten(), d.flatten(), dim=0)))
    optimizer.step()
    metrics = prior.metrics()
    assert metrics["cos_mean"] == pytest.approx(sum(cosines) / len(cosines), abs=1e-5)
    assert (metrics["cos_min"], metrics["cos_max"]) == pytest.approx((min(cosines), max(cosines)), abs=1e-5)
    assert metrics["alpha_mean"] == pytest.approx(-(1 + metrics["cos_mean"]) / 2, abs=1e-5)


def test_three_clipped_steps_equal_the_released_codes_formula_in_one_process_without_accumulation(family, delta):
    ends = []
    for reference in (True, False):
        model = load_vlm(family.vlm, dtype="float32")
        start = torch.cat([p.detach().clone().flatten() for p in model.parameters()])
        optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
        prior = Prior(PriorConfig(), delta)
        if reference:
            pairs = names(model, delta).items()
            reference_hook.attach(model, {runtime: delta.tensor(canonical) for canonical, runtime in pairs})
        else:
            prior.bind(model, optimizer)
        for _ in range(3):
            backward(model)
            if not reference:
                prior.guide()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]) - start)
    assert float((ends[0] - ends[1]).norm() / ends[0].norm()) <= 1e-6


@pytest.mark.parametrize(
    "layout",
    ["model.layers.", "model.language_model.layers.", "language_model.model.layers.", "language_model.layers."],
)
def test_delta_finds_its_tensors_under_the_names_of_old_and_new_transformers(family, delta, layout):
    """transformers 4.49-4.51 said model.layers of a Qwen2.5-VL, 4.52 and later say model.language_model.layers."""
    shapes = {name: tuple(p.shape) for name, p in load_vlm(family.vlm).named_parameters()}
    renamed = {name.replace("model.language_model.layers.", layout): shape for name, shape in shapes.items()}
    pairs = match_parameters(renamed, delta.shapes)
    assert pairs.keys() == delta.shapes.keys()
    assert all(runtime.startswith(layout) for runtime in pairs.values())


def test_a_sum_of_ten_steps_saved_and_resumed_equals_the_uninterrupted_one_to_the_bit(family, delta):
    """A plain PyTorch loop: model, optimizer and prior each keep their state_dict."""

    def loop(model, optimizer, prior, steps):
        for _ in range(steps):
            backward(model)
            prior.guide()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    def start():
        model = load_vlm(family.vlm, dtype="float32")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        prior = Prior(PriorConfig(schedule={"kind": "cosine", "warmup": 0.2}), delta)
        prior.bind(model, optimizer, total_steps=10)
        return model, optimizer, prior

    whole = start()
    loop(*whole, 10)
    first, second = start(), start()
    loop(*first, 4)
    for resumed, saved in zip(second, first, strict=True):
        resumed.load_state_dict(saved.state_dict())
    assert second[2].step == 4
    loop(*second, 6)
    for a, b in zip(whole[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_step_that_overflows_gets_no_bias_and_the_next_one_does(family, delta):
    model, optimizer, prior, _ = bound(family, delta)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    before = [p.detach().clone() for p in model.parameters()]
    for overflow in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=TOKENS, labels=TOKENS).loss
        scaler.scale(loss * (float("inf") if overflow else 1.0)).backward()
        scaler.unscale_(optimizer)
        prior.guide()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        changed = any(not torch.equal(a, p) for a, p in zip(before, model.parameters(), strict=True))
        assert changed == (not overflow)
        assert prior.step == int(not overflow)
    assert prior.metrics()["prior_ratio"] == pytest.approx(0.5, abs=0.1)  # adaptive at a cosine near 0
    assert prior.projection() > 0


def test_clipping_before_the_bias_bounds_the_norm_by_one_plus_alpha(family, delta):
    model, optimizer, _, _ = bound(family, delta, scale="grad_norm", clip="after")
    backward(model)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    optimizer.step()
    total = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    assert 1e-3 < total <= 2e-3


def test_guide_does_nothing_where_the_bias_comes_after_clipping(family, delta):
    model, _, prior, _ = bound(family, delta, clip="after")
    backward(model)
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    prior.guide()
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, (p.grad for p in model.parameters() if p.grad is not None), strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_optimizer_on_16_bit_weights_without_masters_is_refused(family, delta, dtype):
    model = load_vlm(family.vlm, dtype="float32").to(dtype)
    with pytest.raises(PriorError, match=r"updates torch\.\w+ weights without float32 masters"):
        Prior(PriorConfig(), delta).bind(model, torch.optim.AdamW(model.parameters(), lr=1e-6))


def test_at_the_papers_learning_rate_bf16_weights_without_masters_hardly_move(family):
    """Why they are refused: the same AdamW steps of 1e-6, in bfloat16 and in float32."""
    shares = []
    for dtype in (torch.bfloat16, torch.float32):
        model = load_vlm(family.vlm, dtype="float32").to(dtype)
        before = [p.detach().clone() for p in model.parameters()]
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0)
        backward(model)
        optimizer.step()
        pairs = [(a, p) for a, p in zip(before, model.parameters(), strict=True) if p.grad is not None]
        shares.append(sum(int((a != p).sum()) for a, p in pairs) / sum(a.numel() for a, _ in pairs))
    assert shares[0] < 0.05 < 0.8 < shares[1]


# ------------------------------------------------------------------------------------------- refusals


def test_a_model_of_another_shape_is_refused_by_the_tensors_name(family, delta):
    stranger = torch.nn.Linear(3, 3)
    with pytest.raises(PriorError, match="layers"):
        Prior(PriorConfig(), delta).bind(stranger, torch.optim.SGD(stranger.parameters(), lr=1))


def test_a_frozen_parameter_is_refused_by_name(family, delta):
    model = load_vlm(family.vlm, dtype="float32")
    name = names(model, delta)["layers.1.self_attn.k_proj.weight"]
    dict(model.named_parameters())[name].requires_grad_(False)
    trainable = [p for p in model.parameters() if p.requires_grad]
    with pytest.raises(PriorError, match=f"{name}.*not trained; unfreeze it"):
        Prior(PriorConfig(), delta).bind(model, torch.optim.SGD(trainable, lr=1))


def test_a_parameter_the_optimizer_does_not_hold_is_refused(family, delta):
    model = load_vlm(family.vlm, dtype="float32")
    with pytest.raises(PriorError, match="not trained"):
        Prior(PriorConfig(), delta).bind(model, torch.optim.SGD([next(model.parameters())], lr=1))


def test_a_delta_that_is_not_finite_is_refused_by_the_tensors_name(family, delta, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(delta.folder, broken)
    tensors = load_file(delta.folder / "delta.safetensors")
    tensors["layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, broken / "delta.safetensors", metadata={"format": "drift-delta"})
    with pytest.raises(PriorError, match=r"layers\.0\.mlp\.up_proj\.weight"):
        bound(family, load_delta(broken))


def test_a_step_without_gradients_is_refused(family, delta):
    _, optimizer, _, _ = bound(family, delta)
    with pytest.raises(PriorError, match="no guided parameter has a gradient"):
        optimizer.step()


def rewritten(delta, folder, change):
    """The Δ in another folder, its tensors put through `change`, its statistics as they were."""
    shutil.copytree(delta.folder, folder)
    tensors = {name: change(tensor) for name, tensor in load_file(delta.folder / "delta.safetensors").items()}
    save_file(tensors, folder / "delta.safetensors", metadata={"format": "drift-delta"})
    return folder


def test_a_delta_that_is_not_the_one_of_its_statistics_is_refused(family, delta, tmp_path):
    folder = rewritten(delta, tmp_path / "scaled", lambda tensor: tensor * 2)
    with pytest.raises(PriorError, match=r"‖Δ‖² is [\d.]+ in .*scaled, and [\d.]+ in its statistics; compute it again"):
        bound(family, load_delta(folder))


def test_a_delta_of_zeros_is_refused(family, delta, tmp_path):
    folder = rewritten(delta, tmp_path / "zero", torch.zeros_like)
    stats = read_json(folder / "delta_stats.json")
    for entry in stats["tensors"].values():
        entry["l2"] = 0.0
    write_json(folder / "delta_stats.json", stats)
    with pytest.raises(PriorError, match="zero: Δ is zero, so it guides nothing"):
        bound(family, load_delta(folder))


def test_a_delta_file_that_is_cut_off_is_refused(delta, tmp_path):
    shutil.copytree(delta.folder, tmp_path / "cut")
    whole = (delta.folder / "delta.safetensors").read_bytes()
    (tmp_path / "cut" / "delta.safetensors").write_bytes(whole[:-100])
    with pytest.raises(PriorError, match=r"delta\.safetensors: cut off"):
        load_delta(tmp_path / "cut")


def test_a_schedule_over_the_steps_needs_their_number_at_binding(family, delta):
    with pytest.raises(PriorError, match="'linear' needs bind"):
        bound(family, delta, schedule={"kind": "linear"})


@pytest.mark.parametrize("key", ["delta_sha256", "config"])
def test_another_deltas_or_configurations_state_is_refused(family, delta, key):
    *_, prior, _ = bound(family, delta)
    state = prior.state_dict()
    state[key] = "0" * 64 if key == "delta_sha256" else {**state["config"], "alpha": -0.25}
    with pytest.raises(PriorError, match=r"sha256|prior\.alpha: -0\.25 in the checkpoint, -1\.0 here"):
        prior.load_state_dict(state)
