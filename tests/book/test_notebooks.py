"""The notebooks: executed, reproducible, in step with their text, and checks that can fail."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires

import jupytext
import nbformat
import papermill
import pytest
import torch
import yaml
from book_tools import tool
from conftest import ROOT, TINY
from here import code_cells, execute_here
from own_sockets import own_sockets
from PIL import Image

from asintrovae import ParameterError, RunConfig, load_run
from asintrovae.config import DATASETS
from asintrovae.sweeps.grid import notebook_defaults, read_grid

BOOK = ROOT / "book"
HELPERS = ROOT / "tests" / "helpers"
CHAPTERS = sorted(BOOK.glob("[0-9]*.ipynb"))
PAGES = [BOOK / "index.ipynb", BOOK / "found.ipynb"]
"""Pages that are notebooks, too: they show results, and are in no mould."""
LAB = BOOK / "lab.ipynb"
"""A page of widgets, without a number of its own."""
TRAINING = sorted((BOOK / "training").glob("*.ipynb"))
MEASURES = ("frechet", "precision", "recall", "kid", "density", "coverage")
SCORES = {f"{measure}_mnist_classifier" for measure in MEASURES}

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
each_executed = pytest.mark.parametrize("path", [*CHAPTERS, *PAGES, LAB], ids=lambda p: p.stem)
each_template = pytest.mark.parametrize("path", TRAINING, ids=lambda p: p.stem)
each_notebook = pytest.mark.parametrize(
    "path", [*CHAPTERS, *PAGES, LAB, *TRAINING], ids=lambda p: p.stem
)


NBVAL = ["-m", "pytest", "--nbval", "-q", "-rf", "-p", "no:cacheprovider", "-p", "own_sockets"]
NBVAL += [
    "--nbval-current-env",
    "--nbval-sanitize-with",
    str(ROOT / "tests" / "book" / "nbval_sanitize.cfg"),
]


def nbval(path, cwd=BOOK, **environment):
    """Run nbval on a notebook: executes it and compares every output that is not marked as free."""
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HELPERS}{os.pathsep}{ROOT}"}
    env = {**os.environ, **own, **environment}
    command = [sys.executable, *NBVAL, str(path)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def compared(notebook):
    """Code cells whose text outputs nbval compares."""
    free = {"nbval-ignore-output", "nbval-skip"}
    cells = [cell for cell in code_cells(notebook) if not free & set(cell.metadata.get("tags", []))]
    return [cell for cell in cells if any("text" in output for output in cell.outputs)]


@each_executed
def test_chapter_executes_and_matches_its_outputs(path, reader, tmp_path):
    """With the wheel alone, no network, one thread and no vector instructions: far from where the
    outputs were stored."""
    shutil.copy(path, tmp_path)
    result = reader.run(*NBVAL, tmp_path / path.name, cwd=tmp_path, ATEN_CPU_CAPABILITY="default")
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
    assert [file.name for file in tmp_path.iterdir()] == [path.name], (
        "the chapter leaves files behind"
    )


@each_chapter
def test_nbval_compares_outputs_of_the_chapter(path):
    """It compares nothing in a notebook whose cells were never executed."""
    notebook = nbformat.read(path, as_version=4)
    assert all(cell.execution_count for cell in code_cells(notebook) if cell.source.strip())
    tables = [
        cell
        for cell in code_cells(notebook)
        if "nbval-ignore-output" not in cell.metadata.get("tags", [])
        and any("text/html" in output.get("data", {}) for output in cell.outputs)
    ]
    assert len(compared(notebook)) + len(tables) >= 4


def test_a_changed_output_is_noticed_and_only_it(tmp_path):
    """In a small notebook every time; in those of the chapters once a week, below."""
    notebook = nbformat.v4.new_notebook()
    for count in range(3):
        cell = nbformat.v4.new_code_cell(f"print('number', {count})", execution_count=count + 1)
        stored = 7 if count == 1 else count
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"number {stored}\n")]
        notebook.cells.append(cell)
    nbformat.write(notebook, tmp_path / "small.ipynb")
    result = nbval(tmp_path / "small.ipynb", cwd=tmp_path)
    assert re.findall(r"^FAILED .*::Cell (\d+)", result.stdout, flags=re.MULTILINE) == ["1"]
    assert "1 failed, 2 passed" in result.stdout


@pytest.mark.weekly
@each_chapter
def test_changed_outputs_are_noticed_and_only_they(path, tmp_path):
    """A comparison that cannot fail would pass above, too.

    This machine's instructions, two threads.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = compared(notebook)
    for cell in cells[::2]:
        output = next(o for o in cell.outputs if "text" in o)
        output["text"] = re.sub(
            r"\d|True|False", lambda m: "7" if m[0] != "7" else "3", output["text"], count=1
        )
    nbformat.write(notebook, tmp_path / path.name)
    result = nbval(
        tmp_path / path.name, cwd=tmp_path, OMP_NUM_THREADS="2", OMP_WAIT_POLICY="passive"
    )
    spoiled = {code_cells(notebook).index(cell) for cell in cells[::2]}
    failed = {
        int(number)
        for number in re.findall(r"^FAILED .*::Cell (\d+)", result.stdout, flags=re.MULTILINE)
    }
    assert failed == spoiled, result.stdout[-3000:]


@pytest.mark.weekly
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_changed_number_in_a_table_of_a_page_is_noticed(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    cells = code_cells(notebook)
    shown = [
        output for cell in cells for output in cell.outputs if "text/html" in output.get("data", {})
    ]
    html = shown[-1]["data"]["text/html"]
    shown[-1]["data"]["text/html"] = re.sub(
        r"(?<=>)\d", lambda m: "7" if m[0] != "7" else "3", html, count=1
    )
    assert shown[-1]["data"]["text/html"] != html
    nbformat.write(notebook, tmp_path / path.name)
    result = nbval(tmp_path / path.name, cwd=tmp_path)
    assert len(re.findall(r"^FAILED .*::Cell", result.stdout, flags=re.MULTILINE)) == 1


@each_chapter
def test_every_check_of_an_equation_holds_and_shows_its_numbers(path):
    """A stored False would match itself for ever; a check that prints nothing shows nothing."""
    checks = 0
    for cell in code_cells(nbformat.read(path, as_version=4)):
        text = "".join(o["text"] for o in cell.outputs if "text" in o)
        witnesses = [line for line in text.splitlines() if line.startswith("witness")]
        assert all(line.split()[-1] == "True" for line in witnesses), witnesses
        compares = "assert_close(" in cell.source
        if any(tag.startswith("eq-") for tag in cell.metadata.get("tags", [])) and not witnesses:
            assert compares, cell.source
            assert len(re.findall(r"\d\.\d+", text)) >= 2, cell.source
        checks += len(witnesses) + compares
    assert checks >= 2


def test_chapters_import_nothing_that_the_wheel_does_not_require():
    """IPython comes with every notebook; the rest must be among the dependencies."""
    required = {
        re.match(r"[\w-]+", line)[0].replace("-", "_")
        for line in requires("asintrovae")
        if "extra ==" not in line
    }
    for path in CHAPTERS + PAGES + TRAINING:
        source = "\n".join(
            re.sub(r"(?m)^(\s*)%.*", r"\1pass", cell.source)
            for cell in code_cells(nbformat.read(path, as_version=4))
        )
        for node in ast.walk(ast.parse(source)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            found = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
            assert found <= required | {"asintrovae", "IPython"}, (
                f"{path.stem} imports {found - required}"
            )


@each_executed
def test_stored_outputs_are_those_of_this_code(path):
    assert not tool("execute").stale(path), "outputs are stale: make chapters"


@each_notebook
def test_notebook_and_text_are_in_step(path):
    text = jupytext.read(BOOK / "src" / path.relative_to(BOOK).with_suffix(".md"))
    notebook = nbformat.read(path, as_version=4)
    strip = [(c.cell_type, c.source, dict(c.metadata)) for c in notebook.cells]
    assert strip == [(c.cell_type, c.source, dict(c.metadata)) for c in text.cells]


@each_notebook
def test_set_up_cell_is_the_same_everywhere(path):
    """And no cell before it needs the package, which it installs in Colab."""
    cells = code_cells(nbformat.read(path, as_version=4))
    (cell,) = [c for c in cells if "setup" in c.metadata.get("tags", [])]
    assert not any("import" in before.source for before in cells[: cells.index(cell)])
    (reference,) = [
        c
        for c in code_cells(nbformat.read(TRAINING[0], as_version=4))
        if "setup" in c.metadata.get("tags", [])
    ]
    assert cell.source == reference.source


@each_chapter
def test_chapter_keeps_to_the_mould(path):
    notebook = nbformat.read(path, as_version=4)
    prose = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    limit = re.search(r"\*.* under (\d+) seconds on two CPU cores, .*\*", prose)
    assert notebook.metadata["execution"]["seconds"] < int(limit[1]) <= 60
    promises = re.findall(r"After this chapter you can\n\n((?:- .*\n?(?:  .*\n?)*)+)", prose)
    assert 3 <= promises[0].count("- ") <= 5
    kept = re.findall(r"You can now\n\n((?:- .*\n?(?:  .*\n?)*)+)", prose)
    if kept:
        assert promises[0].strip() == kept[0].strip()
    else:
        (remember,) = re.findall(r"## What to remember\n\n((?:- .*\n?(?:  .*\n?)*)+)", prose)
        assert len(re.findall(r"(?m)^- ", remember)) == 3
        assert prose.count(":::{quiz}") >= 2
    exercises, solutions = (
        set(re.findall(p, prose)) for p in (r":label: (ex-[\w-]+)", r"{solution-start} (ex-[\w-]+)")
    )
    assert exercises == solutions
    assert 3 <= len(exercises) <= 5
    lines = sorted(
        sum(bool(line.strip()) for line in cell.source.splitlines())
        for cell in code_cells(notebook)
        if "hide-input" not in cell.metadata.get("tags", [])
    )
    assert lines[len(lines) // 2] <= 10
    assert lines[int(0.9 * len(lines))] <= 20


@each_notebook
def test_every_figure_has_caption_and_text_alternative(path):
    for cell in code_cells(nbformat.read(path, as_version=4)):
        draws = (
            any("image/png" in o.get("data", {}) for o in cell.outputs)
            or "plt.subplots" in cell.source
        )
        if draws or "figure = " in cell.source:
            assert len(cell.metadata["mystnb"]["figure"]["caption"]) > 40, cell.source
            assert len(cell.metadata["mystnb"]["image"]["alt"]) > 40, cell.source


def parameters_of(path):
    """name -> (default, comment) of the notebook's parameters cell."""
    (cell,) = [
        c
        for c in code_cells(nbformat.read(path, as_version=4))
        if "parameters" in c.metadata.get("tags", [])
    ]
    lines = [line.split("  # ") for line in cell.source.splitlines()]
    return {
        code.split(": ")[0]: (ast.literal_eval(code.split(" = ", 1)[1]), comment)
        for code, comment in lines
    }


@each_template
def test_parameters_cell_is_a_manual_of_run_config(path):
    parameters = parameters_of(path)
    RunConfig(**{name: default for name, (default, _) in parameters.items()})
    assert all(comment for _, comment in parameters.values())
    only_images = {
        "data_dir",
        "download",
        "resolution",
        "mirror",
        "strict_images",
        "workers",
        "channels_last",
    }
    only_images |= {"fit", "feature_network", "fid_weights", "fid_precision"}
    expected = set(RunConfig.model_fields) - (
        only_images if path.stem == "toy" else {"decoder_std", "fourier_features"}
    )
    assert set(parameters) == expected


def yaml_of(path):
    return yaml.safe_load(path.read_text())


PARAMS = BOOK / "training" / "params"
NOTEBOOK_OF = {
    row: "toy" if yaml_of(row)["dataset"] in DATASETS["points"] else "images"
    for row in PARAMS.glob("*.yaml")
}


@each_template
def test_defaults_of_a_notebook_are_those_of_run_config(path):
    defaults = notebook_defaults(path)
    assert RunConfig(**defaults).model_dump() == RunConfig(dataset=defaults["dataset"]).model_dump()


@pytest.mark.parametrize("dataset", sorted({*DATASETS["points"], *DATASETS["images"]}))
def test_a_data_set_alone_means_the_same_to_a_notebook(dataset):
    given = {"dataset": dataset, "data_dir": "pictures"}
    notebook = "toy" if dataset in DATASETS["points"] else "images"
    defaults = notebook_defaults(BOOK / "training" / f"{notebook}.ipynb")
    assert RunConfig(**{**defaults, **given}).model_dump() == RunConfig(**given).model_dump()


@pytest.mark.parametrize("row", sorted(NOTEBOOK_OF), ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "model", sorted((PARAMS / "model").glob("*.yaml")), ids=lambda path: path.stem
)
def test_parameter_files_mean_the_same_to_a_notebook_and_to_run_config(row, model):
    """papermill puts the notebook's defaults first, then one file after the other."""
    given = {**yaml_of(row), **yaml_of(model)}
    defaults = notebook_defaults(BOOK / "training" / f"{NOTEBOOK_OF[row]}.ipynb")
    assert RunConfig(**{**defaults, **given}).model_dump() == RunConfig(**given).model_dump()


@pytest.mark.parametrize(
    "path", sorted((BOOK / "training" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem
)
def test_points_of_a_grid_mean_the_same_to_its_notebook_and_to_run_config(path):
    _, points = read_grid(path)
    assert points
    assert all(point.config == RunConfig(**point.parameters) for point in points)


@pytest.mark.xdist_group("book")  # the built book holds these runs
@each_template
def test_papermill_run_leaves_everything_and_repeats(path, tiny_runs):
    """nbval executes the result again and compares what it compares."""
    run_dir = tiny_runs / path.stem
    names = {"record.json", "history.csv", "checkpoint.safetensors", "samples.png"}
    names |= {"interpolation.png"} if path.stem == "images" else set()
    assert names <= {file.name for file in run_dir.iterdir()}
    run = load_run(run_dir)
    assert run.record["status"] == "finished"
    assert run.config.iterations == 12
    wanted = (
        {"psnr", "ssim", "mse"} | SCORES
        if path.stem == "images"
        else {"protocol_kl", "protocol_jsd", "kl_nats", "jsd_nats"}
    )
    assert wanted <= run.record["metrics"].keys()
    result = nbval(tiny_runs / path.name, cwd=tiny_runs)
    assert result.returncode == 0, result.stdout[-4000:]


def test_images_notebook_runs_without_an_encoder_and_in_colour(tmp_path, generator):
    """WGAN-GP, on a folder, whose sheets of noise, which compresses worst, stay small."""
    for i in range(40):
        pixels = torch.randint(256, (64, 64, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{i}.png")
    run_dir = tmp_path / "run"
    here = {
        "model": "wgan_gp",
        "dataset": "folder",
        "data_dir": str(tmp_path),
        "resolution": 64,
        "feature_network": None,
    }
    parameters = {**TINY, **here, "iterations": 2, "warmup": None, "run_dir": str(run_dir)}
    execute_here(BOOK / "training" / "images.ipynb", parameters)
    assert load_run(run_dir).record["metrics"] == {"evaluation_samples": 4}
    assert (run_dir / "samples.png").stat().st_size < 150_000
    assert (run_dir / "interpolation.png").stat().st_size < 150_000


@pytest.mark.parametrize(
    ("count", "tests", "pairs"),
    [(50, 5, 2), (30, 3, 1), (2, 1, 4)],
)
def test_images_notebook_draws_as_many_images_as_there_are(
    tmp_path, generator, count, tests, pairs
):
    for i in range(count):
        pixels = torch.randint(256, (16, 16, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{i:02d}.png")
    run_dir = tmp_path / "run"
    here = {
        "dataset": "folder",
        "data_dir": str(tmp_path),
        "resolution": 16,
        "batch_size": 1,
        "feature_network": None,
    }
    parameters = {**TINY, **here, "iterations": 2, "warmup": None, "run_dir": str(run_dir)}
    execute_here(BOOK / "training" / "images.ipynb", parameters)
    pictures = {path.stem: Image.open(path).size for path in (run_dir / "pictures").iterdir()}
    rows = {f"path-{i + 1}": (16 * 16, 16) for i in range(pairs)}
    assert pictures == rows | dict.fromkeys(
        ("real", "reconstructed", "generated"), (16 * tests, 16)
    )
    record = load_run(run_dir).record
    assert record["metrics"]["evaluation_samples"] == tests
    assert record["not_measured"] == (
        {} if tests > 1 else {"active_units": "needs at least 2 images, got 1"}
    )
    assert (record["metrics"]["active_units"] is None) == (tests == 1)


UNKNOWN = ({"modle": "x"}, "unknown parameter 'modle' (value 'x'); did you mean 'model'?")
WRONG = ({"iterations": "many"}, "iterations='many': must be a whole number, such as 1000")
TOY, IMAGES = BOOK / "training" / "toy.ipynb", BOOK / "training" / "images.ipynb"


each_refusal = pytest.mark.parametrize(
    ("path", "parameters", "message"),
    [
        pytest.param(path, *refused, id=f"{path.stem}-{name}")
        for path in (TOY, IMAGES)
        for name, refused in {"unknown": UNKNOWN, "wrong": WRONG}.items()
    ],
)


@each_refusal
def test_a_bad_parameter_stops_the_run_before_training(path, tmp_path, parameters, message):
    run_dir = tmp_path / "run"
    with pytest.raises(ParameterError, match=f"^{re.escape(message)}$"):
        execute_here(path, {**parameters, "run_dir": str(run_dir)})
    assert not run_dir.exists()


def test_papermill_names_a_bad_parameter_last(tmp_path):
    """After the traceback of the kernel's cell."""
    parameters, message = UNKNOWN
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(
            TOY,
            str(tmp_path / "out.ipynb"),
            {**parameters, "run_dir": str(tmp_path / "run")},
            progress_bar=False,
            config=own_sockets(),
        )
    assert str(caught.value).strip().endswith(f"ParameterError: {message}")


def test_notebooks_hold_no_path_of_a_machine():
    for path in CHAPTERS + PAGES + TRAINING:
        text = json.dumps(nbformat.read(path, as_version=4))
        assert not re.search(r"/(home|root|work|tmp|Users)/", text)
