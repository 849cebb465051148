"""LoRA: the prior projected on the factors, held against autograd and against the product formed in full."""

import pytest
import torch

from drift.config.models import DeltaConfig
from drift.config.train import PriorConfig
from drift.ground.errors import PriorError
from drift.prior import gradient
from drift.prior.prior import Prior
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import load_delta
from drift.weights.modeling import load_vlm
from tests.tiny_models import tiny_family

TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
TOKENS = torch.arange(3, 15).reshape(2, 6)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return tiny_family(tmp_path_factory.mktemp("family"))


def delta_of(family, folder, **config):
    compute_delta(DeltaConfig(**config), expert=str(family.expert), vlm=str(family.vlm), base=None, out=folder)
    return load_delta(folder)


@pytest.fixture(scope="module")
def delta(family, tmp_path_factory):
    return delta_of(family, tmp_path_factory.mktemp("delta") / "paper")


def lora(**config):
    import peft  # late: it imports torchvision, which tests.tiny_models has made importable beside a CPU torch

    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS} | config)


def adapted(family, trained=True, **config):
    from peft import get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(load_vlm(family.vlm, dtype="float32").train(), lora(**config))
    if trained:  # as after some steps: B is no longer 0
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def bind(model, delta, **config):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    prior = Prior(PriorConfig(**config), delta)
    return prior, optimizer, prior.bind(model, optimizer)


def layer(model, name="layers.0.self_attn.q_proj"):
    return next(module for own, module in model.named_modules() if own.endswith(name))


def test_the_factors_directions_are_what_autograd_gives_for_a_weight_gradient_of_delta(family, delta):
    model = adapted(family)
    prior, *_ = bind(model, delta)
    module, d = layer(model), delta.tensor("layers.0.self_attn.q_proj.weight")
    a, b = (module.lora_A["default"].weight.detach().requires_grad_(), module.lora_B["default"].weight.detach())
    b.requires_grad_()
    # L = ⟨W_0 + s·B·A, D⟩ has ∂L/∂W = D, so its gradients are the directions.
    (module.scaling["default"] * (b @ a) * d).sum().backward()
    along = dict(zip(prior._directions.names, prior._directions.pieces(), strict=True))
    torch.testing.assert_close(along["layers.0.self_attn.q_proj.weight (A)"], a.grad.flatten())
    torch.testing.assert_close(along["layers.0.self_attn.q_proj.weight (B)"], b.grad.flatten())


@pytest.mark.parametrize("form", [{"rank": 4}, {"dtype": "int8"}], ids=str)
def test_the_factors_directions_are_of_the_tensor_that_a_smaller_form_stands_for(family, tmp_path, form):
    model, delta = adapted(family), delta_of(family, tmp_path / "delta", **form)
    prior, _, report = bind(model, delta)
    module, d = layer(model), delta.tensor("layers.0.self_attn.q_proj.weight")
    a, b = (module.lora_A["default"].weight.detach(), module.lora_B["default"].weight.detach())
    along = dict(zip(prior._directions.names, prior._directions.pieces(), strict=True))
    s = module.scaling["default"]
    torch.testing.assert_close(along["layers.0.self_attn.q_proj.weight (A)"], (s * b.T @ d).flatten())
    torch.testing.assert_close(along["layers.0.self_attn.q_proj.weight (B)"], (s * d @ a.T).flatten())
    assert report.bytes < 0.7 * sum(4 * d.numel() for d in map(delta.tensor, delta.names) if d.ndim > 1)


@pytest.mark.parametrize("scale", ["absolute", "grad_norm", "adaptive", "adaptive_descent"])
def test_each_factor_is_guided_by_the_papers_formula(family, delta, scale):
    model = adapted(family)
    prior, optimizer, _ = bind(model, delta, scale=scale)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    parameters, along = prior._directions.parameters, prior._directions.pieces()
    pairs = zip(parameters, along, strict=True)
    expected = [gradient.guide(scale, -1.0, p.grad, direction.view_as(p)) for p, direction in pairs]
    optimizer.step()
    for parameter, guided in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, guided)


def test_at_the_start_only_b_is_guided_since_a_gets_no_direction_from_a_zero_b(family, delta):
    model = adapted(family, trained=False)
    _, optimizer, _ = bind(model, delta)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    optimizer.step()
    module = layer(model)
    assert not module.lora_A["default"].weight.grad.any() and module.lora_B["default"].weight.grad.any()
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_projection_and_update_cosine_are_those_of_the_product_formed_in_full(family, delta):
    model = adapted(family)
    prior, *_ = bind(model, delta)
    product, direction = [], []
    for name in (name for name, shape in delta.shapes.items() if len(shape) > 1):
        module = layer(model, name.removesuffix(".weight"))
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        product.append((module.scaling["default"] * b @ a).detach().flatten())
        direction.append(delta.tensor(name).flatten())
    update, d = torch.cat(product), torch.cat(direction)
    travel = {name: float(value) for name, value in prior._directions.travel().items()}
    assert travel["projection"] == pytest.approx(float(update @ d / (d @ d)), rel=1e-4)
    assert travel["update_cosine"] == pytest.approx(float(update @ d / (update.norm() * d.norm())), rel=1e-4)


def test_steps_move_the_product_along_delta(family, delta):
    model = adapted(family, trained=False)
    prior, optimizer, _ = bind(model, delta, scale="grad_norm")
    for _ in range(5):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert prior.metrics()["projection"] > 0 and prior.metrics()["update_cosine"] > 0.1


def test_biases_are_left_out_counted_and_said(family, delta, caplog):
    *_, report = bind(adapted(family), delta)
    matrices = sum(len(shape) > 1 for shape in delta.shapes.values())
    assert report.parameters == 2 * matrices
    assert report.left_out == len(delta.shapes) - matrices == 6
    assert "6 tensors of Δ are left out" in caplog.text


@pytest.mark.parametrize(
    ("config", "prior", "message"),
    [
        ({"target_modules": r".*language_model.*\.q_proj"}, {}, "no LoRA adapter is there; add it to the targets"),
        ({"use_dora": True}, {}, "DoRA rescales the weight"),
        ({}, {"apply": "backward"}, "has no LoRA; set 'step'"),
        ({}, {"scale": "absolute", "rescale_to_weight": True}, "rescale_to_weight: has no meaning under LoRA"),
    ],
)
def test_what_the_formula_does_not_cover_is_refused(family, delta, config, prior, message):
    with pytest.raises(PriorError, match=message):
        bind(adapted(family, **config), delta, **prior)


def test_two_active_adapters_are_refused(family, delta):
    model = adapted(family)
    model.add_adapter("second", lora(r=2))
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(PriorError, match="adapters default, second are active; the prior knows one"):
        bind(model, delta)


def test_frozen_adapters_are_refused(family, delta):
    model = adapted(family)
    layer(model).lora_A["default"].weight.requires_grad_(False)
    with pytest.raises(PriorError, match="not trained"):
        bind(model, delta)
