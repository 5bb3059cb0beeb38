import pytest
import torch

from asintrovae import ParameterError, RunConfig


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"modle": "x"}, "unknown parameter 'modle' (value 'x'); did you mean 'model'?"),
        ({"learning_rat": 1}, "unknown parameter 'learning_rat' (value 1); did you mean 'learning_rate'?"),
        ({"model": "gan"}, "model='gan': should be 'vae', 'intro', 'soft_intro', 'as_intro' or 'wgan_gp'"),
        ({"iterations": 0}, "iterations=0: should be greater than or equal to 1"),
        ({"iterations": 2.5}, "iterations=2.5: should be a valid integer, got a number with a fractional part"),
        ({"iterations": "many"}, "iterations='many': should be a valid integer, unable to parse string as an integer"),
        ({"iterations": True}, "iterations=True: must be a number, not true or false"),
        ({"beta_kl": float("nan")}, "beta_kl=nan: should be a finite number"),
        ({"beta_kl": -1}, "beta_kl=-1: should be greater than or equal to 0"),
        ({"ema": 1}, "ema=1: should be less than 1"),
        ({"c": 1.5}, "c=1.5: should be less than or equal to 1"),
        ({"widths": []}, "widths=[]: Tuple should have at least 1 item after validation, not 0"),
        ({"warmup": 30, "iterations": 20}, "warmup=30 exceeds iterations=20; lower it or leave it out"),
        (
            {"warmup": 200, "iterations": 1000},
            "warmup=200 leaves nothing of the annealing: c reaches 1 after 200 of iterations=1000, before the game begins; "
            "shorten warmup or fix c in [0, 1]",
        ),
        *(
            (
                {"decoder_std": 0.1, "latent_dim": 4} | parameters,
                "decoder_std=0.1 takes the last two latent axes of an autoencoder of points for its noise, which "
                f"{given} do not allow; use decoder_std=0, or an autoencoder of points with latent_dim of at least 3",
            )
            for parameters, given in (
                ({"latent_dim": 2}, "dataset='8gaussians', model='as_intro' and latent_dim=2"),
                ({"model": "wgan_gp"}, "dataset='8gaussians', model='wgan_gp' and latent_dim=4"),
                ({"dataset": "mnist"}, "dataset='mnist', model='as_intro' and latent_dim=4"),
            )
        ),
        (
            {"fourier_features": 8, "dataset": "mnist"},
            "fourier_features=8 is for points, but dataset='mnist'; leave it out",
        ),
        (
            {"estimator": "u", "batch_size": 1},
            "estimator='u' needs batch_size of at least 2, got batch_size=1; use estimator='v'",
        ),
        (
            {"estimator": "u", "distance_reduction": "sum"},
            "distance_reduction='sum' takes all pairs, but estimator='u' leaves some out; use estimator='v'",
        ),
        ({"fit": "stretch"}, "fit='stretch': should be 'crop' or 'squeeze'"),
        ({"hinge": "mean"}, "hinge='mean': should be 'example' or 'batch'"),
        ({"c_schedule": "cosine"}, "c_schedule='cosine': should be 'linear' or 'tanh'"),
        ({"beta_neg_decoder": -1}, "beta_neg_decoder=-1: should be greater than or equal to 0"),
        ({"device": "gpu"}, "device='gpu': String should match pattern '^(auto|cpu|mps|cuda(:(0|[1-9][0-9]?))?)$'"),
    ],
)
def test_bad_parameters_fail_in_one_line(parameters, message):
    with pytest.raises(ParameterError) as caught:
        RunConfig(**parameters)
    assert str(caught.value) == message


def test_two_mistakes_are_both_named():
    with pytest.raises(ParameterError, match=r"iterations=0.*; .*'modle'"):
        RunConfig(iterations=0, modle="x")


def test_numbers_may_come_as_strings():
    config = RunConfig(iterations="200", learning_rate="1e-3", widths=["8", 8])
    assert (config.iterations, config.learning_rate, config.widths) == (200, 1e-3, (8, 8))


def test_namespace_of_a_notebook():
    namespace = {"model": "vae", "iterations": 7, "_private": 1, "In": [""], "Out": {}, "torch": torch, "open": open}
    assert RunConfig.from_namespace(namespace) == RunConfig(model="vae", iterations=7)
    with pytest.raises(ParameterError, match="did you mean 'seed'"):
        RunConfig.from_namespace({**namespace, "sede": 3})
    with pytest.raises(ParameterError, match=r"run_dir=.*: should be a valid string"):
        RunConfig.from_namespace({**namespace, "run_dir": {"a": 1}})
    with pytest.raises(ParameterError, match="dataset='rings': this notebook takes mnist-subset, mnist"):
        RunConfig.from_namespace({**namespace, "dataset": "rings"}, kind="images")


def test_config_survives_json():
    config = RunConfig(widths=(8, 4), milestones=(5,), c=0.5)
    assert RunConfig(**config.model_dump(mode="json")) == config


def test_annealing_by_tanh_outlives_any_warmup():
    assert RunConfig(warmup=200, iterations=1000, c_schedule="tanh").c is None


def test_warmup_defaults_to_a_sixteenth():
    assert RunConfig(iterations=8000).warmup_iterations() == 500
    assert RunConfig(iterations=8000, warmup=0).warmup_iterations() == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_device_is_refused():
    with pytest.raises(ParameterError, match="device='cuda': this machine has none"):
        RunConfig(device="cuda").torch_device()


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [RunConfig(device=name).torch_device().index for name in ("cuda", "cuda:0", "cuda:1", "auto")] == [None, 0, 1, None]
    with pytest.raises(ParameterError, match="device='cuda:2': this machine has 2 GPUs, counted from cuda:0; use device='auto'"):
        RunConfig(device="cuda:2").torch_device()
