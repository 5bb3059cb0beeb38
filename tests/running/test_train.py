import dataclasses
import json
import warnings

import pytest
import torch
from conftest import MODELS, build, tiny_config

from asintrovae import (
    ParameterError,
    RunConfig,
    build_objective,
    evaluate,
    load_run,
    save_record,
    save_samples,
    train,
)
from asintrovae.config import with_defaults
from asintrovae.files import embedded
from asintrovae.running.checkpoint import load_checkpoint, save_checkpoint
from asintrovae.running.loop import Loop, build_optimizers
from asintrovae.running.provenance import check_another_run, described
from asintrovae.running.records import load_records, load_samples
from asintrovae.theory.batchnorm import precise_batchnorm
from asintrovae.theory.networks import mlp_autoencoder
from asintrovae.theory.objectives import VAE, Phase


def run(config):
    data, model, objective = build(config)
    return train(model, objective, data, config), model


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("model_name", MODELS)
def test_the_same_seed_gives_the_same_run_and_another_another(tmp_path, model_name):
    results = [
        run(tiny_config(tmp_path / str(i), model=model_name, seed=seed))
        for i, seed in enumerate((0, 0, 1))
    ]
    assert results[0][0].history == results[1][0].history != results[2][0].history
    assert all(
        torch.equal(a, b)
        for a, b in zip(*(weights(m).values() for _, m in results[:2]), strict=True)
    )


def test_recorded_samples_are_the_generated_points_to_three_digits(tmp_path):
    points = torch.randn(2100, 2)
    config = tiny_config(tmp_path / "not" / "there")
    save_samples(config, points)
    torch.testing.assert_close(load_samples(config.run_dir), points[:2000], rtol=1e-3, atol=1e-6)
    with pytest.raises(FileNotFoundError):
        load_samples(tmp_path)


@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize("dataset", ["8gaussians", "mnist-subset"])
def test_an_interrupted_run_resumes_bitwise(tmp_path, monkeypatch, model_name, dataset):
    small = {
        "model": model_name,
        "dataset": dataset,
        "widths": (4, 4),
        "iterations": 6,
        "checkpoint_every": 2,
        "log_every": 1,
    }
    small["channels_last"] = (
        dataset == "mnist-subset"
    )  # weights that lie in memory in another order than in the file
    whole, _ = run(tiny_config(tmp_path / "whole", **small, ema=0.9))
    config = tiny_config(tmp_path / "parts", **small, ema=0.9)

    class Interrupted(Exception):  # noqa: N818
        pass

    def failing(loop, i):
        if i == 5:
            raise Interrupted
        return iterate(loop, i)

    iterate = Loop.iterate
    monkeypatch.setattr(Loop, "iterate", failing)
    with pytest.raises(Interrupted):
        run(config)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "parts").meta["iteration"] == 4
    resumed, _ = run(config)
    assert resumed.history == whole.history
    one, other = (load_checkpoint(tmp_path / part).tensors for part in ("whole", "parts"))
    assert {name.split(".")[0] for name in one} == {"model", "average", "optimizer"}
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_optimiser_is_adam_to_rounding():
    """It takes one pass over the weights, which adds in another order."""
    models = [mlp_autoencoder(2, 2, (16,)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    config = RunConfig(learning_rate=0.01, adam_betas=(0.5, 0.9))
    plain = {
        name: torch.optim.Adam(half.parameters(), 0.01, (0.5, 0.9), fused=False)
        for name, half in models[1].named_children()
    }
    for optimizers, model in zip((build_optimizers(models[0], config), plain), models, strict=True):
        for i in range(20):
            generator = torch.Generator().manual_seed(i)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            for optimizer in optimizers.values():
                optimizer.step()
    for mine, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model_name", ["soft_intro", "wgan_gp"])
def test_the_evaluated_weights_are_the_average_and_training_those_without(tmp_path, model_name):
    small = {"model": model_name, "iterations": 4, "checkpoint_every": 1, "warmup": 2}
    plain = tiny_config(tmp_path / "plain", **small)
    half = "generator" if model_name == "wgan_gp" else "decoder"
    data, model, objective = build(plain)
    loop = Loop(model, objective, data, plain)
    expected = {name: tensor for name, tensor in weights(model).items() if name.startswith(half)}
    for i in range(4):
        loop.iterate(i)
        expected = {
            name: 0.75 * mean + 0.25 * weights(model)[name] for name, mean in expected.items()
        }
    trained, averaged = weights(model), run(tiny_config(tmp_path / "ema", **small, ema=0.75))[1]
    for name, tensor in weights(averaged).items():
        torch.testing.assert_close(tensor, expected.get(name, trained[name]))
    tensors = load_checkpoint(tmp_path / "ema").tensors
    assert all(torch.equal(tensors[f"model.{name}"], tensor) for name, tensor in trained.items())


def test_statistics_for_evaluation_do_not_touch_training(tmp_path):
    """However often checkpoints are saved; the same seed then ends in the same weights and is
    evaluated alike."""
    small = {
        "model": "soft_intro",
        "dataset": "mnist-subset",
        "widths": (4,),
        "latent_dim": 2,
        "iterations": 4,
    }
    small |= {"log_every": 1, "warmup": None}
    often, seldom = (
        tiny_config(tmp_path / str(every), **small, checkpoint_every=every) for every in (1, 4)
    )
    (one, model), (other, other_model) = run(often), run(seldom)
    assert one.history == other.history
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights(model).values(), weights(other_model).values(), strict=True)
    )
    data, _, _ = build(often)
    metrics = evaluate(model, data, often)
    model.encode(
        model.decode(9 * torch.randn(8, 2))
    )  # the last fake batch of training, had it been another
    assert evaluate(model, data, often) != metrics
    precise_batchnorm(dict(model.named_children()), data.batch, often.latent_dim, often.seed)
    assert evaluate(model, data, often) == metrics


def test_a_run_dir_with_other_parameters_is_refused(tmp_path):
    run(tiny_config(tmp_path))
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(
        ParameterError,
        match=r"holds another run \(beta_kl 0.3 there, 0.7 here, seed 0 there, 1 here\)",
    ):
        run(tiny_config(tmp_path, beta_kl=0.7, seed=1))
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_run_dir_with_another_objective_is_refused(tmp_path):
    config = tiny_config(tmp_path, model="soft_intro")
    data, model, objective = build(config)
    train(model, objective, data, config)
    with pytest.raises(
        ParameterError, match=r"another run \(objective.beta_neg 0.9 there, 500 here\)"
    ):
        train(model, dataclasses.replace(objective, beta_neg=500), data, config)


def test_runs_are_read_from_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tiny_config("~/runs/x", model="vae")
    result, model = run(config)
    data, _, _ = build(config)
    save_record(config, result, evaluate(model, data, config))
    save_samples(config, data.evaluation(5))
    assert load_run("~/runs/x").config == load_run(tmp_path / "runs" / "x").config == config
    assert list(load_records("~/runs")) == ["x"]
    assert load_samples("~/runs/x").shape == (5, 2)
    for read in (load_run, load_records, load_samples):
        with pytest.raises(
            ParameterError, match=r"='~nobody-of-that-name': no home folder is known for"
        ):
            read("~nobody-of-that-name")


def forget(run_dir, name, objective):
    """The checkpoint as it was before the parameter existed; objective: in the form of today or of
    before."""
    checkpoint = load_checkpoint(run_dir)
    del checkpoint.meta["config"][name]
    checkpoint.meta["objective"] = objective
    save_checkpoint(run_dir, checkpoint)


@pytest.mark.parametrize(
    "objective",
    [
        {"objective": "VAE", "objective.beta_rec": 0.2, "objective.beta_kl": 0.3},
        "VAE(beta_rec=0.2, beta_kl=0.3)",
    ],
)
def test_a_run_begun_before_a_parameter_existed_goes_on(tmp_path, objective):
    whole, _ = run(tiny_config(tmp_path / "whole", model="vae"))
    run(tiny_config(tmp_path, model="vae", iterations=20))
    config = tiny_config(tmp_path, model="vae")
    assert set(load_checkpoint(tmp_path).meta["objective"]) == {*described(VAE())}
    (tmp_path / "checkpoint.previous.safetensors").rename(
        tmp_path / "checkpoint.safetensors"
    )  # of iteration 10
    forget(tmp_path, "kl_annealing", objective)
    resumed, _ = run(config)
    assert resumed.history == whole.history
    forget(tmp_path, "kl_annealing", objective)
    with pytest.raises(ParameterError, match=r"another run \(kl_annealing 0.0 there, 0.5 here\)"):
        run(tiny_config(tmp_path, model="vae", kl_annealing=0.5))


@pytest.mark.parametrize(
    "objective",
    ["VAE(beta_rec=0.2, beta_kl=500)", "<Own object at 0x7f>", "IntroVAE(beta_rec=0.2)"],
)
def test_a_checkpoint_of_another_objective_is_refused_in_its_older_form(tmp_path, objective):
    run(tiny_config(tmp_path, model="vae"))
    forget(tmp_path, "kl_annealing", objective)
    with pytest.raises(ParameterError, match=r"holds another run \(objective"):
        run(tiny_config(tmp_path, model="vae"))


def test_recorded_runs_go_on_under_objectives_with_more_fields_than_they_had():
    """Their checkpoints name the objective as it was; later fields must have their defaults."""
    folders = [path.parent for path in embedded("runs").rglob("checkpoint.safetensors")]
    assert len(folders) > 5
    for folder in folders:
        checkpoint = load_checkpoint(folder)
        config = RunConfig(**with_defaults(checkpoint.meta["config"]))
        objective = build_objective(config)
        check_another_run(config, objective, checkpoint)
        if config.model in ("soft_intro", "as_intro"):
            for changes in ({"detach_fakes": False}, {"alpha": 3.0}):
                with pytest.raises(ParameterError, match="holds another run"):
                    check_another_run(config, dataclasses.replace(objective, **changes), checkpoint)


def test_other_code_than_the_run_was_begun_with_is_said(tmp_path, monkeypatch):
    run(tiny_config(tmp_path))
    monkeypatch.setattr("asintrovae.running.loop.code_hash", lambda: "another")
    with pytest.warns(UserWarning, match="begun with another version of the code"):
        run(tiny_config(tmp_path))


def test_phases_see_the_share_of_all_iterations_that_is_done(tmp_path):
    """c = min(5 i / T, 1) counts the warm-up too."""
    config = tiny_config(tmp_path, model="as_intro", warmup=2)
    data, model, objective = build(config)
    seen = []

    class Watching:
        @property
        def phases(self):
            def watch(phase):
                def loss(model, x, noise, progress):
                    seen.append(progress)
                    return phase.loss(model, x, noise, progress)

                return dataclasses.replace(phase, loss=loss)

            return tuple(map(watch, objective.phases))

    train(model, Watching(), data, config)
    assert seen == [i / 20 for i in range(2, 20) for _ in range(2)]


def test_parameters_the_user_froze_stay_frozen(tmp_path):
    config = tiny_config(tmp_path, model="soft_intro")
    data, model, objective = build(config)
    frozen = model.encoder[0][0][0].weight.requires_grad_(False)
    before = frozen.clone()
    train(model, objective, data, config)
    assert torch.equal(frozen, before)
    assert not frozen.requires_grad


class Breaking:
    """A VAE whose KL turns into NaN at one iteration."""

    def __init__(self, objective, at):
        self.objective, self.at = objective, at

    @property
    def phases(self):
        (phase,) = self.objective.phases

        def loss(model, x, noise, progress):
            value, terms = phase.loss(model, x, noise, progress)
            bad = (
                torch.tensor(float("nan")) if round(progress * 20) == self.at else torch.tensor(0.0)
            )
            return value + bad, {**terms, "kl": terms["kl"] + bad}

        return (Phase(phase.name, phase.learns, loss),)


def test_a_nan_stops_the_run_keeps_the_last_good_checkpoint_and_is_recorded(tmp_path):
    config = tiny_config(tmp_path, model="vae", warmup=0)
    data, model, objective = build(config)
    result = train(model, Breaking(objective, at=13), data, config)
    assert (result.divergence.iteration, result.divergence.term) == (13, "joint.kl")
    assert load_checkpoint(tmp_path).meta["iteration"] == 10
    assert all(tensor.isfinite().all() for tensor in weights(model).values())
    record = save_record(config, result, evaluate(model, data, config))
    assert record["status"] == "diverged"
    assert json.loads((tmp_path / "record.json").read_text())["diverged"] == {
        "iteration": 13,
        "term": "joint.kl",
    }
    assert [row["iteration"] for row in load_run(tmp_path).history] == [5, 10]


def test_broken_weights_behind_finite_terms_are_never_saved(tmp_path):
    config = tiny_config(tmp_path, model="vae", iterations=10, warmup=0)
    data, model, objective = build(config)

    class Poisoned(type(data)):
        def batch(self, index):
            if (
                index == 9
            ):  # after the last loss was seen to be finite, the step itself breaks the weights
                model.decoder[-1].bias.register_hook(lambda g: g * float("nan"))
            return super().batch(index)

    data.__class__ = Poisoned
    result = train(model, objective, data, config)
    assert (result.divergence.iteration, result.divergence.term) == (9, "weights")
    assert load_checkpoint(tmp_path).meta["iteration"] == 0


def test_damaged_checkpoint_falls_back_to_the_generation_before(tmp_path):
    whole, _ = run(tiny_config(tmp_path))
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="is damaged"):
        resumed, _ = run(tiny_config(tmp_path))
    assert resumed.history == whole.history


def test_learning_rate_follows_its_milestones(tmp_path):
    from asintrovae.running.loop import build_optimizers, set_learning_rate

    config = tiny_config(tmp_path, learning_rate=1e-2, milestones=(5, 8))
    optimizers = build_optimizers(mlp_autoencoder(2, 2, (4,)), config)
    rates = []
    for i in (0, 4, 5, 7, 8):
        set_learning_rate(optimizers, config, i)
        rates.append({group["lr"] for o in optimizers.values() for group in o.param_groups})
    assert [round(rate.pop(), 12) for rate in rates] == [1e-2, 1e-2, 1e-3, 1e-3, 1e-4]


def test_warmup_is_a_plain_vae(tmp_path):
    result, _ = run(tiny_config(tmp_path, model="soft_intro", warmup=10))
    assert ["joint.loss" in row for row in result.history] == [True, True, False, False]


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("model_name", MODELS)
def test_a_recorded_run_loads_with_the_model_that_was_evaluated(tmp_path, model_name, ema):
    config = tiny_config(tmp_path, model=model_name, ema=ema)
    result, model = run(config)
    data, _, _ = build(config)
    record = save_record(config, result, evaluate(model, data, config))
    loaded = load_run(tmp_path)
    assert (loaded.config, loaded.record, loaded.history) == (config, record, result.history)
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights(model).values(), weights(loaded.model).values(), strict=True)
    )
    for name in ("checkpoint.safetensors", "checkpoint.previous.safetensors"):
        (tmp_path / name).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_run(tmp_path).model is None
    with pytest.raises(FileNotFoundError, match=r"holds no record\.json"):
        load_run(tmp_path / "nowhere")
