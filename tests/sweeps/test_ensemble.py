import pytest
import torch
from conftest import MODELS, build, tiny_config

from asintrovae import ParameterError, load_run, train
from asintrovae.running.checkpoint import load_checkpoint
from asintrovae.running.loop import Loop
from asintrovae.sweeps import ensemble as ensemble_module
from asintrovae.sweeps.ensemble import run_ensemble, train_ensemble

DATASETS = ["8gaussians", "checkerboard", "8gaussians"]
WEIGHTS = {
    "vae": [{"beta_kl": 0.1}, {"beta_kl": 0.3}, {"beta_rec": 1.0}],
    "intro": [{"margin": 1.0}, {"reconstruction_hinge": 4.0}, {"beta_neg": 0.1}],
    "soft_intro": [{"alpha": 1.0}, {"beta_neg": 3.0}, {"gamma_r": 0.1}],
    "as_intro": [{"distance_weight": 30.0}, {"beta_kl": 1.0}, {}],
    "wgan_gp": [{"gradient_penalty": 1.0}, {}, {}],
}


def members(tmp_path, model, **parameters):
    """Three small runs that differ in seed, data set and weights."""
    own = zip(range(3), DATASETS, WEIGHTS[model], strict=True)
    return [
        tiny_config(tmp_path / str(k), model=model, seed=k, dataset=d, **w, **parameters)
        for k, d, w in own
    ]


def train_alone(config, **changes):
    config = config.model_copy(update={"run_dir": config.run_dir + "-alone", **changes})
    data, model, objective = build(config)
    return train(model, objective, data, config), model


def assert_same_curves(one, other):
    """Two histories of the same run, computed in another order of additions."""
    assert [row.keys() for row in one] == [row.keys() for row in other]
    for row, expected in zip(one, other, strict=True):
        torch.testing.assert_close(
            torch.tensor(list(row.values())),
            torch.tensor(list(expected.values())),
            rtol=1e-3,
            atol=1e-5,
        )


@pytest.mark.parametrize("model", MODELS)
def test_a_member_reproduces_the_single_run_of_its_seed(tmp_path, model):
    configs = members(tmp_path, model, ema=0.9, milestones=(15,))
    histories = []
    for config, record in zip(configs, run_ensemble(configs), strict=True):
        result, network = train_alone(config)
        run = load_run(config.run_dir)
        assert record["status"] == "finished"
        assert record["trained_together"] == 3
        assert record["config"]["seed"] == config.seed
        assert_same_curves(run.history, result.history)
        for (name, mine), theirs in zip(
            run.model.named_parameters(), network.parameters(), strict=True
        ):
            torch.testing.assert_close(
                mine, theirs, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
        histories.append(run.history)
    assert histories[0] != histories[1] != histories[2]


@pytest.mark.parametrize(
    "parameters",
    [
        {"kernel": "product"},
        {"kernel": "prior", "estimator": "u", "pairing": "real"},
        {"kernel": "tempered", "bandwidth": 1.0, "pairing": "real"},
        {"bandwidth": (0.5, 2.0)},
        {"distance_reduction": "sum", "squash": True, "squash_kl": True, "detach_fakes": False},
        {"decoder_std": 0.1, "latent_dim": 4},
        {"fourier_features": 3},
    ],
)
def test_members_with_weights_c_of_their_own(tmp_path, parameters):
    configs = [
        tiny_config(tmp_path / str(c), model="as_intro", c=c, warmup=2, **parameters)
        for c in (0.0, 0.5, 1.0)
    ]
    for config, result in zip(configs, train_ensemble(configs), strict=True):
        single, _ = train_alone(config)
        mine = [
            {name: value for name, value in row.items() if "distance" not in name}
            for row in result.history
        ]
        theirs = [
            {name: value for name, value in row.items() if "distance" not in name}
            for row in single.history
        ]
        assert_same_curves(mine, theirs)


def test_members_with_weights_of_their_own_in_the_decoder_phase(tmp_path):
    for model, names in (
        ("intro", ["beta_rec_decoder", "beta_neg_decoder"]),
        ("as_intro", ["distance_weight_decoder"]),
    ):
        for name in names:
            given = {"model": model, "warmup": 2, "hinge": "batch", "margin": 0.5}
            folder = tmp_path / name
            configs = [tiny_config(folder / str(w), **given, **{name: w}) for w in (0.5, 30.0)]
            results = train_ensemble(configs)
            for config, result in zip(configs, results, strict=True):
                assert_same_curves(result.history, train_alone(config)[0].history)
            assert results[0].history[-1] != results[1].history[-1]


def stop_at(monkeypatch, last):
    """Make every loop fail before iteration `last`."""
    iterate = Loop.iterate

    def failing(loop, i):
        if i == last:
            raise KeyboardInterrupt
        return iterate(loop, i)

    monkeypatch.setattr(Loop, "iterate", failing)


def test_an_interrupted_ensemble_goes_on_also_where_its_members_stand_apart(tmp_path, monkeypatch):
    small = {"model": "soft_intro", "checkpoint_every": 4, "ema": 0.9}
    whole = [tiny_config(tmp_path / f"whole{k}", seed=k, **small) for k in range(3)]
    parts = [tiny_config(tmp_path / f"part{k}", seed=k, **small) for k in range(3)]
    train_ensemble(whole)
    for members, last in ((parts[:2], 10), (parts[:1], 18)):
        stop_at(monkeypatch, last)
        with pytest.raises(KeyboardInterrupt):
            train_ensemble(members)
        monkeypatch.undo()
    begun = [load_checkpoint(tmp_path / f"part{k}") for k in range(3)]
    assert [saved and saved.meta["iteration"] for saved in begun] == [16, 8, None]
    for one, other in zip(train_ensemble(parts), whole, strict=True):
        expected = load_checkpoint(tmp_path / other.run_dir)
        assert_same_curves(one.history, expected.meta["history"])
    for k in range(3):
        one, other = (
            load_checkpoint(tmp_path / f"{name}{k}").tensors for name in ("part", "whole")
        )
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-6)


def test_train_takes_up_what_an_ensemble_left(tmp_path, monkeypatch):
    configs = members(tmp_path, "as_intro")
    stop_at(monkeypatch, 15)
    with pytest.raises(KeyboardInterrupt):
        train_ensemble(configs)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "1").meta["iteration"] == 10
    data, model, objective = build(configs[1])
    assert_same_curves(
        train(model, objective, data, configs[1]).history, train_alone(configs[1])[0].history
    )


def test_a_member_that_diverges_stops_alone(tmp_path, monkeypatch):
    configs = members(tmp_path, "intro", log_every=1)
    make = ensemble_module.build_data

    def broken(config):
        data = make(config)
        if config.seed == 1:
            batch = data.batch
            data.batch = lambda i: batch(i) * (float("inf") if i >= 13 else 1)
        return data

    monkeypatch.setattr(ensemble_module, "build_data", broken)
    results = train_ensemble(configs)
    assert [result.divergence is None for result in results] == [True, False, True]
    assert results[1].divergence.iteration == 13
    assert [len(result.history) for result in results] == [20, 13, 20]
    assert load_checkpoint(tmp_path / "1").meta["iteration"] == 10
    assert_same_curves(results[2].history, train_alone(configs[2])[0].history)


def test_draws_by_other_processes_are_the_same(tmp_path):
    here, there = (
        members(tmp_path / str(workers), "soft_intro", workers=workers) for workers in (0, 2)
    )
    assert [r.history for r in train_ensemble(here)] == [r.history for r in train_ensemble(there)]


def test_runs_that_are_not_one_program_are_refused_before_anything_is_saved(tmp_path):
    first = tiny_config(tmp_path / "0", model="soft_intro")
    for changes, message in (
        ({"widths": (8,)}, r"widths: \(16,\) and \(8,\) do not fit into one ensemble"),
        ({"model": "vae"}, "model: 'soft_intro' and 'vae' do not fit"),
        ({"c": 0.5}, "c is None: True and False do not fit into one ensemble"),
        ({"beta_neg_decoder": 0.5}, "beta_neg_decoder is None: True and False do not fit"),
        ({"run_dir": first.run_dir}, "is asked for twice"),
        ({"dataset": "mnist-subset"}, "dataset='mnist-subset': an ensemble trains on 8gaussians"),
        ({"devices": 2}, "devices=2: an ensemble is one process"),
        ({"compile": True}, "compile=True: an ensemble is not compiled"),
    ):
        other = first.model_copy(update={"run_dir": str(tmp_path / "1"), **changes})
        with pytest.raises(ParameterError, match=message):
            train_ensemble([first, other])
    with pytest.raises(ParameterError, match="at least one run"):
        train_ensemble([])
    assert not list(tmp_path.iterdir())
    train_ensemble([first])
    with pytest.raises(ParameterError, match=r"holds another run .*beta_kl"):
        train_ensemble([first.model_copy(update={"beta_kl": 0.7})])
