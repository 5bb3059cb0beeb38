import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from asintrovae import ParameterError, RunConfig
from asintrovae.config import (
    DATASETS,
    FREE,
    MEMBER,
    REGISTRY,
    description_of,
    differences,
    marked,
    short,
    with_defaults,
)
from asintrovae.data import DENSITIES
from asintrovae.data.sources import OPENERS
from asintrovae.files import embedded
from asintrovae.running.records import load_records

DEVICES = "must be 'auto', 'cpu', 'mps', 'cuda' or one GPU, 'cuda:0' to 'cuda:99'"
ALL_SETS = ", ".join(f"'{name}'" for name in [*DATASETS["points"], *DATASETS["images"]][:-1])


def a_list(example, passed):
    return (
        f'must be a list, such as {example}; papermill passes a list by -y "{passed}" or by a '
        "file (-f)"
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"modle": "x"}, "unknown parameter 'modle' (value 'x'); did you mean 'model'?"),
        (
            {"learning_rat": 1},
            "unknown parameter 'learning_rat' (value 1); did you mean 'learning_rate'?",
        ),
        (
            {"model": "gan"},
            "model='gan': must be 'vae', 'intro', 'soft_intro', 'as_intro' or 'wgan_gp'; did "
            "you mean 'wgan_gp'?",
        ),
        ({"iterations": 0}, "iterations=0: must be at least 1"),
        ({"iterations": 2.5}, "iterations=2.5: must be a whole number, such as 1000"),
        ({"iterations": "many"}, "iterations='many': must be a whole number, such as 1000"),
        ({"iterations": True}, "iterations=True: must be a number, not true or false"),
        ({"beta_kl": float("nan")}, "beta_kl=nan: must be finite"),
        ({"beta_kl": -1}, "beta_kl=-1: must be at least 0"),
        ({"ema": 1}, "ema=1: must be below 1"),
        ({"c": 1.5}, "c=1.5: must be at most 1"),
        ({"widths": []}, "widths=[]: must have 1 or more entries, got 0"),
        (
            {"warmup": 30, "iterations": 20},
            "warmup=30 exceeds iterations=20; lower it or leave it out",
        ),
        (
            {"warmup": 200, "iterations": 1000},
            "warmup=200 leaves nothing of the annealing: c reaches 1 after 200 of "
            "iterations=1000, before the game begins; "
            "shorten warmup or fix c in [0, 1]",
        ),
        *(
            (
                {"decoder_std": 0.1, "latent_dim": 4} | parameters,
                "decoder_std=0.1 takes the last two latent axes of an autoencoder of points "
                "for its noise, which "
                f"{given} do not allow; use decoder_std=0, or an autoencoder of points with "
                "latent_dim of at least 3",
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
        ({"device": "gpu"}, f"device='gpu': {DEVICES}; did you mean 'cuda'?"),
        ({"device": "gpu1"}, f"device='gpu1': {DEVICES}; did you mean 'cuda'?"),
        ({"device": "CPU"}, f"device='CPU': {DEVICES}; did you mean 'cpu'?"),
        ({"device": "x"}, f"device='x': {DEVICES}"),
        (
            {"dataset": "mnst"},
            f"dataset='mnst': must be {ALL_SETS} or 'folder'; did you mean 'mnist'?",
        ),
        ({"widths": "[16, 16]"}, f"widths='[16, 16]': {a_list([128, 128], 'widths: [16, 16]')}"),
        ({"widths": 16}, f"widths=16: {a_list([128, 128], 'widths: [128, 128]')}"),
        ({"milestones": "935"}, f"milestones='935': {a_list([1000], 'milestones: [1000]')}"),
        (
            {"milestones": None},
            f"milestones=None: {a_list([1000], 'milestones: [1000]')}; leave it out for the "
            "default",
        ),
        ({"widths": [8, "wide"]}, "widths='wide': must be a whole number, such as 1000"),
        (
            {"widths": [8] * 17},
            "widths=[8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, ...]: must have 16 or "
            "fewer entries, got 17",
        ),
        ({"adam_betas": [0.5]}, "adam_betas=[0.5]: must have two entries"),
        ({"adam_betas": [0, 0, 0]}, "adam_betas=[0, 0, 0]: must have 2 or fewer entries, got 3"),
        (
            {"iterations": None},
            "iterations=None: must be a whole number, such as 1000; leave it out for the default",
        ),
        ({"beta_kl": "much"}, "beta_kl='much': must be a number, such as 0.5"),
        ({"alpha": 0}, "alpha=0: must be at least 1e-06"),
        ({"learning_rate": 0}, "learning_rate=0: must be above 0"),
        ({"squash": "perhaps"}, "squash='perhaps': must be true or false"),
        ({"run_dir": ""}, "run_dir='': must not be empty"),
        ({"run_dir": 3}, "run_dir=3: must be text"),
        (
            {"data_dir": "x" * 2000},
            f"data_dir={short('x' * 2000)}: must have at most 1000 characters",
        ),
        ({"resolution": 64}, "resolution=64 is for images, but dataset='8gaussians'; leave it out"),
        (
            {"dataset": "celeba128", "resolution": 64},
            "resolution=64: dataset='celeba128' has images of 128x128; leave it out",
        ),
        (
            {"dataset": "mnist", "widths": [8, 8, 8]},
            "widths=(8, 8, 8) halves the image 3 times, which resolution=28 does not allow; "
            "use fewer widths, or a resolution that is a multiple of 8",
        ),
        (
            {"dataset": "mnist-subset", "batch_size": 6001},
            "batch_size=6001 exceeds the 6000 training images of dataset='mnist-subset'; lower it",
        ),
        (
            {"estimator": "u", "distance_reduction": "sum"},
            "distance_reduction='sum' takes all pairs, but estimator='u' leaves some out; use "
            "estimator='v'",
        ),
        ({"fit": "stretch"}, "fit='stretch': must be 'crop' or 'squeeze'"),
        ({"hinge": "mean"}, "hinge='mean': must be 'example' or 'batch'"),
        (
            {"c_schedule": "cosine"},
            "c_schedule='cosine': must be 'linear' or 'tanh'; did you mean 'linear'?",
        ),
        ({"beta_neg_decoder": -1}, "beta_neg_decoder=-1: must be at least 0"),
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


@pytest.mark.parametrize("written", ["1e4", "1.0e4", "10000.0", " 10000 ", "10_000", 10000.0])
def test_a_count_may_be_written_as_yaml_1_1_reads_it(written):
    config = RunConfig(iterations=written, widths=[written], milestones=[written], warmup=0)
    assert (config.iterations, config.widths, config.milestones) == (10_000, (10_000,), (10_000,))
    assert type(config.iterations) is int


def test_namespace_of_a_notebook():
    namespace = {
        "model": "vae",
        "iterations": 7,
        "_private": 1,
        "In": [""],
        "Out": {},
        "torch": torch,
        "open": open,
    }
    assert RunConfig.from_namespace(namespace) == RunConfig(model="vae", iterations=7)
    with pytest.raises(ParameterError, match="did you mean 'seed'"):
        RunConfig.from_namespace({**namespace, "sede": 3})
    with pytest.raises(ParameterError, match=r"run_dir=.*: must be text"):
        RunConfig.from_namespace({**namespace, "run_dir": {"a": 1}})
    with pytest.raises(
        ParameterError, match="dataset='rings': this notebook takes mnist-subset, mnist"
    ):
        RunConfig.from_namespace({**namespace, "dataset": "rings"}, kind="images")


def in_python(cells, namespace):
    for cell in cells:
        exec(cell, namespace)


def in_ipython(cells, namespace):
    """What a cell of Jupyter, Colab or papermill sees."""
    namespace.setdefault("In", [""])
    for cell in cells:
        namespace["In"].append(cell)
        exec(cell, namespace)


SETUP = "from asintrovae import RunConfig"
DEFAULTS = "model: str = 'vae'  # one\niterations: int = 7"
READ = "config = RunConfig.from_namespace(globals(), kind='points')"
LATER = [
    "metrics = {'kl': 1.0}; record = dict(metrics)",
    "for name, rows in {'real': [1]}.items():\n    t = 0.5",
    "(a, b), *z = [(1, 2), 3]",
]
every_way = pytest.mark.parametrize("run", [in_python, in_ipython])


@every_way
def test_a_notebook_may_run_again_in_the_same_kernel(run):
    namespace = {}
    for iterations in (7, 8):
        run([DEFAULTS, f"iterations = {iterations}", SETUP, READ, *LATER], namespace)
        assert namespace["config"] == RunConfig(model="vae", iterations=iterations)
    run([READ, "seed = 3", READ], namespace)
    assert namespace["config"] == RunConfig(model="vae", iterations=8, seed=3)


@every_way
def test_a_misspelt_parameter_is_noticed_until_it_is_gone(run):
    """papermill's cell stands behind the defaults."""
    namespace = {}
    for _ in range(2):
        with pytest.raises(ParameterError, match=r"unknown parameter 'sede' .*did you mean 'seed'"):
            run([DEFAULTS, "sede = 3", SETUP, READ], namespace)
    with pytest.raises(ParameterError, match="unknown parameter 'sede'"):
        run([READ], namespace)
    run(["del sede", DEFAULTS, SETUP, READ], namespace)


def test_a_parameter_misspelt_in_the_second_run_is_noticed():
    namespace = {}
    in_ipython([DEFAULTS, SETUP, READ, *LATER, DEFAULTS, SETUP, READ, *LATER], namespace)
    for injected in (
        "sede = 3",
        "iterations = 9; sede = 3",
        "t = 0.5",
    ):  # t was a later cell's before
        with pytest.raises(ParameterError, match=r"unknown parameter '(sede|t)'"):
            in_ipython([DEFAULTS, injected, SETUP, READ], namespace)
        in_ipython([f"del {injected.split('; ')[-1].split()[0]}"], namespace)


def test_reading_a_copy_of_a_namespace_is_a_first_run():
    namespace = {}
    in_python([DEFAULTS, SETUP, READ], namespace)
    with pytest.raises(ParameterError, match="unknown parameter 'sede'"):
        RunConfig.from_namespace({**namespace, "sede": 3})


def test_the_home_folder_is_meant_wherever_a_path_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ("run_dir", "data_dir", "fid_weights")
    config = RunConfig(**{name: f"~/{name}/$VAR" for name in names})
    assert {getattr(config, name) for name in names} == {
        f"{tmp_path}/{name}/$VAR" for name in names
    }
    assert RunConfig(run_dir=Path("~/x")).run_dir == str(tmp_path / "x")
    assert RunConfig(run_dir=Path("x") / "~").run_dir == "x/~"


@pytest.mark.parametrize("name", ["run_dir", "data_dir", "fid_weights"])
def test_a_home_folder_that_nobody_knows_is_refused(name):
    message = (
        f"{name}='~nobody-of-that-name/x': no home folder is known for '~nobody-of-that-name'; "
        "write the path in full, or begin it with ./ for a folder of that name"
    )
    with pytest.raises(ParameterError) as caught:
        RunConfig(**{name: "~nobody-of-that-name/x"})
    assert str(caught.value) == message


def test_records_are_completed_as_they_were_meant():
    """Before it was checked, resolution was 128 whatever the data set; channels_last was false
    before it existed."""
    saved = RunConfig(dataset="mnist").model_dump(mode="json") | {"resolution": 128}
    del saved["channels_last"]
    assert RunConfig(**with_defaults(saved)) == RunConfig(dataset="mnist", channels_last=False)
    points = RunConfig().model_dump(mode="json") | {"resolution": 128}
    assert RunConfig(**with_defaults(points)) == RunConfig()
    folder = RunConfig(dataset="folder", data_dir="x", resolution=64).model_dump(mode="json")
    assert RunConfig(**with_defaults(folder)).resolution == 64


def test_every_recorded_run_can_be_loaded():
    records = load_records(embedded("runs"))
    assert len(records) > 1000
    for record in records.values():
        loaded = RunConfig(**with_defaults(record["config"])).model_dump(mode="json")
        added = loaded.keys() - record["config"].keys()
        assert differences(record["config"], loaded, free={"resolution", *added}) == ""


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
    assert [
        RunConfig(device=name).torch_device().index for name in ("cuda", "cuda:0", "cuda:1", "auto")
    ] == [None, 0, 1, None]
    with pytest.raises(
        ParameterError,
        match="device='cuda:2': this machine has 2 GPUs, counted from cuda:0; use device='auto'",
    ):
        RunConfig(device="cuda:2").torch_device()


def test_every_data_set_of_the_registry_can_be_opened_and_no_other():
    """Points are drawn, images are embedded, in a folder of the user or opened below a root."""
    assert DATASETS["points"] == tuple(DENSITIES)
    assert DATASETS["images"] == ("mnist-subset", *OPENERS, "folder")
    assert {name for name, facts in REGISTRY.items() if facts.folder} == set(OPENERS)
    for name, facts in REGISTRY.items():
        shape = RunConfig(dataset=name, data_dir="x").resolution, facts.shape
        assert shape in ((None, (2,)), (128, None)) or shape[0] == shape[1][1] == shape[1][2]


def test_help_explains_every_parameter():
    """Its meaning, its defaults and its marks, in the words that stand below the field."""
    text = " ".join(RunConfig.__doc__.split())
    for name, field in RunConfig.model_fields.items():
        assert len(field.description) > 10, name
        assert f" {name}: {' '.join(field.description.split())} Default {field.default!r}" in text
    assert "Default 0.2, for images 1.0; may differ within an ensemble." in description_of(
        "beta_rec"
    )
    assert description_of("devices").endswith("Default 1; may change on resume.")
    assert not set(marked(FREE)) & set(marked(MEMBER))


@pytest.mark.parametrize("notebook", ["toy", "images"])
def test_comments_of_a_notebook_are_the_descriptions(notebook):
    """Each is the first line of the description; papermill takes no " = " in it."""
    text = (ROOT / "book" / "src" / "training" / f"{notebook}.md").read_text()
    cell = text.split(":tags: [parameters]\n\n")[1].split("```")[0]
    for line in cell.splitlines():
        name, comment = re.fullmatch(r"(\w+): \w+ = .*?  # (.*)", line).groups()
        assert comment == RunConfig.model_fields[name].description.split("\n")[0].removesuffix(".")
        assert len(line) <= 80
        assert " = " not in comment
