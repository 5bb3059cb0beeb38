"""Interactive figures. They compute in the browser, so they also work in the built page, where there is no kernel."""

import base64
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget
import numpy
import traitlets

from asintrovae.data import toy_density
from asintrovae.running.records import load_run


def _module(name: str) -> str:
    """The JavaScript of a widget, with what all share before it: anywidget takes one text."""
    return "".join(
        Path(__file__).with_name(file).read_text(encoding="utf-8")
        for file in ("widget_parts.js", name)
    )


def _number(default: float, low: float, high: float) -> Any:
    """A number in [low, high] that the browser and Python both see."""
    return traitlets.Float(default, min=low, max=high).tag(sync=True)


def _pair(default: tuple[float, float], low: float, high: float) -> Any:
    """One number in [low, high] for each axis of the plane."""
    each = (traitlets.Float(min=low, max=high) for _ in default)
    return traitlets.Tuple(*each, default_value=default).tag(sync=True)


class KernelExplorer(anywidget.AnyWidget):
    """Two posteriors a and b in the plane, to be dragged and stretched, with the three kernels and D of the two, live.

    mu_a, mu_b: means (μ_1, μ_2) in [-3, 3]. var_a, var_b: variances (λ_1, λ_2) in [0.05, 4]. n: latent axes, even, up to 256;
    those beyond the plane repeat its two. D is `as_distance` of two batches of one example each.
    """

    _esm = _module("kernel_explorer.js")

    mu_a = _pair((-1.0, 0.5), -3, 3)
    var_a = _pair((0.5, 1.0), 0.05, 4)
    mu_b = _pair((1.0, -0.5), -3, 3)
    var_b = _pair((1.0, 0.5), 0.05, 4)
    n = traitlets.Int(2, min=2, max=256).tag(sync=True)

    @traitlets.validate("n")
    def _whole_planes(self, proposal: Any) -> int:
        if proposal["value"] % 2:
            raise traitlets.TraitError(
                f"n={proposal['value']} is odd; give an even number of latent axes, 2 to 256"
            )
        return int(proposal["value"])


class MarginGame(anywidget.AnyWidget):
    """The losses of IntroVAE's two players against the energy of a fake, with both fakes alike and R = 0.

    margin: m in [0, 12] nats. kl_real, kl_fake: KL(x) and KL(x_s) in [0, 12] nats. beta_kl, beta_neg: weights in [0, 1].
    tied: fakes look real, so that all energies are kl_fake.
    """

    _esm = _module("margin_game.js")

    margin = _number(3.0, 0, 12)
    kl_real = _number(0.5, 0, 12)
    kl_fake = _number(1.0, 0, 12)
    beta_kl = _number(0.5, 0, 1)
    beta_neg = _number(0.5, 0, 1)
    tied = traitlets.Bool(False).tag(sync=True)


class AnnealingExplorer(anywidget.AnyWidget):
    """What AS-IntroVAE's losses hold at an iteration: c, both parts of KL_s, exp(α W_s) of a fake with R = 0, and slopes.

    folder: a run of book/tools/training_frames.py, whose weights, length and warm-up count; where `recorded`, KL(x_g) and D too.
    iteration: in [0, total]. kl: KL(x_s) in [0, 10] nats. distance: D in [0, 1]. c: the weight where `fixed_c`, else annealed.
    Raises FileNotFoundError where the folder holds no such run.
    """

    _esm = _module("annealing_explorer.js")

    iteration = traitlets.Int(800, min=0).tag(sync=True)
    fixed_c = traitlets.Bool(False).tag(sync=True)
    c = _number(0.5, 0, 1)
    recorded = traitlets.Bool(False).tag(sync=True)
    kl = _number(2.0, 0, 10)
    distance = _number(0.05, 0, 1)
    total = traitlets.Int().tag(sync=True)
    warmup = traitlets.Int().tag(sync=True)
    weights = traitlets.Dict().tag(sync=True)
    run: Any = traitlets.List().tag(sync=True)

    def __init__(self, folder: Path, **values: Any) -> None:
        config, film = load_run(folder).config, load_film(folder)
        weights = {name: getattr(config, name) for name in ("alpha", "beta_kl", "beta_neg")} | {
            "kappa": 0.5
        }  # points: 2 numbers
        run = numpy.stack([film["iteration"], film["kl_g"], film["distance"]], axis=1).tolist()
        super().__init__(
            total=config.iterations,
            warmup=config.warmup_iterations(),
            weights=weights,
            run=run,
            **values,
        )


class TrainingPlayer(anywidget.AnyWidget):
    """Trainings side by side on one slider: generated points, their density, posteriors of real and generated points.

    folders: name of each model -> a run of book/tools/training_frames.py on 8 Gaussians. frame: which picture, from 0.
    Raises FileNotFoundError where a folder holds no such run, ValueError where their pictures are of different iterations.
    """

    _esm = _module("training_player.js")

    frame = traitlets.Int(0, min=0).tag(sync=True)
    names: Any = traitlets.List().tag(sync=True)
    iterations: Any = traitlets.List().tag(sync=True)
    warmup = traitlets.Int().tag(sync=True)
    centers: Any = traitlets.List().tag(sync=True)
    numbers: Any = traitlets.List().tag(sync=True)
    data = traitlets.Unicode().tag(sync=True)

    def __init__(self, folders: Mapping[str, Path], **values: Any) -> None:
        films = [load_film(folder) for folder in folders.values()]
        frames = films[0]["frames"].tolist()
        for name, film in zip(folders, films, strict=True):
            if film["frames"].tolist() != frames:
                raise ValueError(
                    f"folders[{name!r}] has pictures of other iterations than the first; record them together"
                )
        config = load_run(next(iter(folders.values()))).config
        centers = toy_density("8gaussians").centers
        assert centers is not None
        super().__init__(
            names=list(folders),
            iterations=frames,
            warmup=config.warmup_iterations(),
            centers=centers.tolist(),
            numbers=[_numbers(film) for film in films],
            data=base64.b64encode(b"".join(map(_pictures, films))).decode(),
            **values,
        )


def load_film(folder: Path) -> dict[str, Any]:
    """What book/tools/training_frames.py left of a run, arrays by name; its docstring lists them.

    Raises FileNotFoundError, naming the folder, where there is none, ValueError for a damaged file.
    """
    file = Path(folder) / "frames.npz"
    if not file.exists():
        raise FileNotFoundError(
            f"folder='{folder}' holds no frames.npz; record one with book/tools/training_frames.py"
        )
    try:
        with numpy.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        way_out = "record another with book/tools/training_frames.py"
        raise ValueError(f"{file} is damaged ({reason}); {way_out}") from None


def _numbers(film: Mapping[str, Any]) -> list[list[float]]:
    """Modes found, share between the modes, KL(x) and KL(x_g) at every picture."""
    rows = numpy.stack([film[name] for name in ("modes", "between", "kl", "kl_g")], axis=1)
    shown: list[list[float]] = rows[numpy.isin(film["iteration"], film["frames"])].tolist()
    return shown


def _pictures(film: Mapping[str, Any]) -> bytes:
    """Pictures one after the other: samples and posteriors as little-endian int16, the density as uint8 between them."""
    rows = zip(
        film["samples"].astype("<i2"),
        film["density"].astype("u1"),
        film["posteriors"].astype("<i2"),
        strict=True,
    )
    return b"".join(array.tobytes() for row in rows for array in row)
