"""What every layer that a model file may name must do: map, differentiate, keep its dtype, and come back from JSON."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg import nn
from thalweg.errors import UserError

KEY = jax.random.key(0)


def small_resnet(dtype):
    """The awkward client: convolutions, batch norm, dropout, a residual block with a shortcut."""
    keys = jax.random.split(KEY, 4)
    conv = {"padding": 1, "init": nn.he_normal, "bias": False, "dtype": dtype}
    body = nn.Sequential(
        [
            nn.Conv2d(3, 4, kernel_size=3, stride=2, key=keys[1], **conv),
            nn.BatchNorm(4, dtype=dtype),
            nn.Activation(jax.nn.relu),
            nn.Dropout(0.5),
        ]
    )
    shortcut = nn.Sequential([nn.MeanPool2d(2), nn.Conv2d(3, 4, kernel_size=1, key=keys[2], dtype=dtype)])
    return nn.Sequential(
        [
            nn.Conv2d(1, 3, kernel_size=3, key=keys[0], **conv),
            nn.BatchNorm(3, dtype=dtype),
            nn.Activation(jnp.tanh),
            nn.Residual(body, shortcut),
            nn.GlobalMeanPool2d(),
            nn.Linear(4, 2, key=keys[3], dtype=dtype),
        ]
    )


MODELS = {  # name -> (dtype -> model, shape of one example)
    "Activation": (lambda dtype: nn.Activation(jax.nn.gelu), (3,)),
    "BatchNorm": (lambda dtype: nn.BatchNorm(3, momentum=0.8, dtype=dtype), (2, 3)),
    "Conv1d": (
        lambda dtype: nn.Conv1d(2, 3, kernel_size=3, stride=2, padding=1, key=KEY, dtype=dtype),
        (6, 2),
    ),
    "Conv2d": (
        lambda dtype: nn.Conv2d(2, 3, kernel_size=(3, 2), stride=(2, 1), padding=1, key=KEY, dtype=dtype),
        (5, 4, 2),
    ),
    "Dropout": (lambda dtype: nn.Dropout(0.3), (3,)),
    "FixedStatistics": (lambda dtype: nn.frozen_statistics(nn.BatchNorm(3, dtype=dtype)), (2, 3)),
    "GlobalMeanPool2d": (lambda dtype: nn.GlobalMeanPool2d(), (4, 4, 2)),
    "GroupNorm": (lambda dtype: nn.GroupNorm(4, groups=2, eps=1e-3, dtype=dtype), (3, 2, 4)),
    "LayerNorm": (lambda dtype: nn.LayerNorm(3, eps=1e-3, dtype=dtype), (2, 3)),
    "LeakyReLU": (lambda dtype: nn.LeakyReLU(0.2), (3,)),
    "Linear": (lambda dtype: nn.Linear(3, 2, bias=False, key=KEY, dtype=dtype), (3,)),
    "MaxPool2d": (lambda dtype: nn.MaxPool2d((1, 2)), (3, 4, 2)),
    "MeanPool2d": (lambda dtype: nn.MeanPool2d((1, 2)), (3, 4, 2)),
    "MLP": (
        lambda dtype: nn.MLP(3, None, width=[8, 4], key=KEY, activation=nn.LeakyReLU(0.1), dropout=0.2, dtype=dtype),
        (3,),
    ),
    "Residual": (lambda dtype: nn.Residual(nn.Linear(3, 3, key=KEY, dtype=dtype)), (3,)),
    "Sequential": (small_resnet, (6, 6, 1)),
    "UNet": (lambda dtype: nn.UNet(1, None, widths=(2, 4), groups=2, key=KEY, dtype=dtype), (4, 6, 1)),
    "UpConv2d": (lambda dtype: nn.UpConv2d(3, 2, size=(2, 1), key=KEY, dtype=dtype), (3, 4, 3)),
    "Standardize": (lambda dtype: nn.Standardize([1.0, 2.0, 3.0], [1.0, 2.0, 4.0], dtype=dtype), (3,)),
}

DYNAMICS = {
    *("BacksolveAdjoint", "CheckpointedAdjoint", "DirectAdjoint", "DiscreteAdjoint", "Dopri5", "ForwardSensitivities"),
    *("HybridField", "InitialStates", "Kvaerno5", "NeuralField", "NeuralODE", "SecondOrderField", "Tsit5"),
}


def test_every_registered_class_is_tested_here():
    def names(node):
        if isinstance(node, dict):
            return {node["class"]} if "class" in node else set() | set().union(*map(names, node.values()))
        return set().union(*map(names, node)) if isinstance(node, list) else set()

    tested = set(MODELS)
    for build, _ in MODELS.values():
        described = nn.spec(build(jnp.float32))
        tested |= names(list(described.get("fields", {}).values()))
    # Those of dynamics map no array to an array; tests/nn/test_dynamics.py tests that each comes back from its file,
    # and tests/nn/test_efficientnet.py does so for the one network that is too large for here.
    assert tested | DYNAMICS | {"EfficientNetLite0"} == set(nn.LAYERS)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_maps_differentiates_and_keeps_the_dtype(name, precision):
    build, shape = MODELS[name]
    with jax.enable_x64(precision == "float64"):
        dtype = jnp.dtype(precision)
        model = build(dtype)
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, *shape)), dtype)

        @eqx.filter_jit
        def run(model, x):
            def cost(model, x):
                y = jax.vmap(model)(x)
                return jnp.sum(y**2), y

            return eqx.filter_grad(cost, has_aux=True)(model, x)

        gradient, y = run(model, x)
        assert y.dtype == dtype
        for leaf in jax.tree.leaves(gradient):
            assert leaf.dtype == dtype
            assert np.isfinite(leaf).all()
        for leaf in jax.tree.leaves(model):
            assert leaf.dtype in (dtype, jnp.int32)  # int32: the number of batches seen
        # One example alone is the batch's row. 1e-5 and 1e-13: some hundred roundings of order-one values.
        np.testing.assert_allclose(model(x[1]), y[1], rtol=0, atol=1e-5 if precision == "float32" else 1e-13)


@pytest.mark.parametrize("name", MODELS)
def test_comes_back_from_json(name):
    model = MODELS[name][0](jnp.bfloat16)
    skeleton = nn.from_spec(json.loads(json.dumps(nn.spec(model))))
    # The structure carries classes and static fields, activation functions by identity.
    assert jax.tree.structure(skeleton) == jax.tree.structure(model)
    for mine, theirs in zip(jax.tree.leaves(skeleton), jax.tree.leaves(model), strict=True):
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
    for field in vars(model):
        assert type(getattr(skeleton, field)) is type(getattr(model, field)) or eqx.is_array(getattr(model, field))


def test_every_activation_has_a_name_a_gain_and_its_formula():
    x = np.linspace(-3, 3, 13)
    formulas = {
        "relu": np.maximum(x, 0),
        "relu6": np.clip(x, 0, 6),
        "leaky_relu": np.where(x > 0, x, 0.01 * x),
        "tanh": np.tanh(x),
        "gelu": 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        "silu": x / (1 + np.exp(-x)),
        "selu": 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
        "sigmoid": 1 / (1 + np.exp(-x)),
        "softplus": np.log1p(np.exp(x)),
        "identity": x,
        "sin": np.sin(x),
    }
    assert set(formulas) == set(nn.ACTIVATIONS)
    with jax.enable_x64(True):
        for name, expected in formulas.items():
            function = nn.ACTIVATIONS[name]
            # 1e-14: a few roundings of values up to 5.
            np.testing.assert_allclose(nn.Activation(function)(jnp.asarray(x)), expected, rtol=1e-14, atol=1e-14)
            assert nn.gain(function) >= 1
            described = nn.spec(nn.Activation(function))
            assert described["fields"]["function"] == {"function": name}
            assert nn.from_spec(described).function is function


LINEAR = nn.spec(nn.Linear(2, 1, key=KEY))
FIELDS = LINEAR["fields"]


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"class": "os.system", "fields": {}}, "os.system"),
        ({"class": "__import__", "fields": {"name": "os"}}, "__import__"),
        ({"class": "Activation", "fields": {"function": {"function": "exec"}}}, "'exec'"),
        ({"class": "Linear", "fields": {**FIELDS, "__class__": None}}, "'__class__'"),
        ({"class": "Linear", "fields": {key: FIELDS[key] for key in FIELDS if key != "bias"}}, "'bias'"),
        ({"class": "Linear", "fields": {**FIELDS, "weight": {"array": [2, 1], "dtype": "object"}}}, "'object'"),
        ({"class": "Linear", "fields": {**FIELDS, "weight": {"array": [2, -1], "dtype": "float32"}}}, "-1"),
        ({"class": "Linear", "fields": {**FIELDS, "weight": "a text"}}, "a text"),
        ({"class": "Linear", "fields": {**FIELDS, "in_size": {"array": [], "dtype": "float32"}}}, "in_size"),
        ({"class": "Linear", "fields": {**FIELDS, "bias": {"array": [1], "dtype": "float32", "code": "1"}}}, "code"),
        ({"class": "Linear", "fields": FIELDS, "code": "1"}, "'code'"),
        ([LINEAR], "in place of a module"),
        ("Linear", "in place of a module"),
        (1.0, "in place of a module"),
    ],
)
def test_a_description_that_spec_never_writes_is_refused_by_name(data, named):
    with pytest.raises(UserError) as refused:
        nn.from_spec(data)
    assert named in str(refused.value)


def test_a_file_older_than_a_setting_gets_its_default():
    model = nn.Conv2d(2, 3, kernel_size=1, key=KEY)
    description = nn.spec(model)
    assert description["fields"].pop("groups") == 1
    assert jax.tree.structure(nn.from_spec(description)) == jax.tree.structure(model)
    del description["fields"]["stride"]  # which has no default
    with pytest.raises(UserError, match="'stride'"):
        nn.from_spec(description)


class Foreign(eqx.Module):
    weight: jax.Array

    def __call__(self, x, *, key=None):
        return x * self.weight


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Sequential([Foreign(jnp.ones(2))]), "model.layers[0]"),
        (nn.Activation(jnp.cos), "model.function"),
        ({"net": nn.Activation(lambda x: x)}, "model['net'].function"),
        ([1.0], "model[0]"),
        (jax.random.key(0), "key<fry>"),
    ],
)
def test_what_has_no_name_is_refused_with_its_place(model, named):
    with pytest.raises(UserError) as refused:
        nn.spec(model)
    assert named in str(refused.value)


def test_a_caller_may_add_classes():
    classes = {**nn.LAYERS, "Foreign": Foreign}
    model = nn.Sequential([Foreign(jnp.ones(2))])
    assert jax.tree.structure(nn.from_spec(nn.spec(model, classes), classes)) == jax.tree.structure(model)
