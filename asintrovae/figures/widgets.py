"""Interactive figures.

They compute in the browser, so they also work in the built page, where there is no kernel.
"""

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


def module(*names: str, constants: str = "") -> str:
    """Return a widget's JavaScript behind the parts of all widgets: anywidget takes one text.

    Args:
        names: of its files, in this folder.
        constants: lines that stand before these files.
    """
    parts, *own = (
        (Path(__file__).parent / file).read_text(encoding="utf-8")
        for file in ("widget_parts.js", *names)
    )
    return parts + constants + "".join(own)


def _number(default: float, low: float, high: float) -> Any:
    """Return a trait, a number in [low, high], that the browser and Python both see."""
    return traitlets.Float(default, min=low, max=high).tag(sync=True)


def _pair(default: tuple[float, float], low: float, high: float) -> Any:
    """Return a trait of one number in [low, high] for each axis of the plane."""
    each = (traitlets.Float(min=low, max=high) for _ in default)
    return traitlets.Tuple(*each, default_value=default).tag(sync=True)


class KernelExplorer(anywidget.AnyWidget):
    """Two posteriors in the plane, to be dragged and stretched, with the three kernels and D live.

    D is `as_distance` of two batches of one example each.

    Attributes:
        mu_a: means (μ_1, μ_2) of posterior a, in [-3, 3].
        var_a: its variances (λ_1, λ_2), in [0.05, 4].
        mu_b: means of posterior b.
        var_b: its variances.
        n: latent axes, even, up to 256; those beyond the plane repeat its two.
    """

    _esm = module("kernel_explorer.js")

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
    """The losses of IntroVAE's two players against the energy of a fake.

    Both fakes are alike, and R = 0.

    Attributes:
        margin: m in [0, 12] nats.
        kl_real: KL(x) in [0, 12] nats.
        kl_fake: KL(x_s) in [0, 12] nats.
        beta_kl: weight in [0, 1].
        beta_neg: weight in [0, 1].
        tied: fakes look real, so that all energies are kl_fake.
    """

    _esm = module("margin_game.js")

    margin = _number(3.0, 0, 12)
    kl_real = _number(0.5, 0, 12)
    kl_fake = _number(1.0, 0, 12)
    beta_kl = _number(0.5, 0, 1)
    beta_neg = _number(0.5, 0, 1)
    tied = traitlets.Bool(False).tag(sync=True)


class EntropyGame(anywidget.AnyWidget):
    """The distribution at which S-IntroVAE's decoder arrives, on a few states.

    This p* minimises F(p) = KL(π‖p) + γ H(p). A curve shows F against the share a of the first
    state.

    For equal states, every minimum of F is p = π or of the form (a, (1 - a)/7, ...). F is concave
    in the share of a state above π/γ. Two states with such shares could lower F by exchanging mass,
    so a minimum has at most one, and all other states have the same share. Families with two or
    more large states therefore contain no minimum. The tests confirm this by a search from many
    starts.

    Attributes:
        gamma: weight γ of the entropy in [0, 1.2].
        unequal: π is (0.4, 0.25, 0.2, 0.1, 0.05); else each of eight states has 1/8.
    """

    _esm = module("entropy_game.js")

    gamma = _number(0.7, 0, 1.2)
    unequal = traitlets.Bool(False).tag(sync=True)


class AnnealingExplorer(anywidget.AnyWidget):
    """The parts of AS-IntroVAE's losses at an iteration, of a fake with R = 0.

    They are c, both parts of KL_s, exp(α W_s), and the slopes.

    Args:
        folder: a run of book/tools/training_frames.py, whose weights, length and warm-up count.
        values: of the attributes.

    Attributes:
        iteration: in [0, total].
        fixed_c: c is the attribute; else it is annealed.
        c: weight of the KL divergence in [0, 1].
        recorded: KL(x_g) and D are those of the run.
        kl: KL(x_s) in [0, 10] nats.
        distance: D in [0, 1].

    Raises:
        FileNotFoundError: where the folder holds no such run.
    """

    _esm = module("annealing_explorer.js")

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
        weights = {name: getattr(config, name) for name in ("alpha", "beta_kl", "beta_neg")}
        weights["kappa"] = 0.5  # a point is 2 numbers
        run = numpy.stack([film["iteration"], film["kl_g"], film["distance"]], axis=1).tolist()
        super().__init__(
            total=config.iterations,
            warmup=config.warmup_iterations(),
            weights=weights,
            run=run,
            **values,
        )


class TrainingPlayer(anywidget.AnyWidget):
    """Trainings side by side on one slider.

    Each shows generated points, their density, and posteriors of real and generated points.

    Args:
        folders: name of each model -> a run of book/tools/training_frames.py on 8 Gaussians.
        values: of the attributes.

    Attributes:
        frame: number of the picture, from 0.
        autoplay: begin to play when the reader sees it, and stop when it is out of sight. Where
            the reader's machine asks for less motion, the last picture is shown instead.
        compact: show the generated points alone, without numbers.

    Raises:
        FileNotFoundError: where a folder holds no such run.
        ValueError: where their pictures are of different iterations.
    """

    _esm = module("training_player.js")

    frame = traitlets.Int(0, min=0).tag(sync=True)
    autoplay = traitlets.Bool(False).tag(sync=True)
    compact = traitlets.Bool(False).tag(sync=True)
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
                found = f"folders[{name!r}] has pictures of other iterations than the first"
                raise ValueError(f"{found}; record them together")
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
    """Return the arrays that book/tools/training_frames.py kept of a run, by name.

    The docstring of that script lists them.

    Raises:
        FileNotFoundError: where there are none; it names the folder.
        ValueError: for a damaged file.
    """
    file = Path(folder) / "frames.npz"
    if not file.exists():
        way_out = "record one with book/tools/training_frames.py"
        raise FileNotFoundError(f"folder='{folder}' holds no frames.npz; {way_out}")
    try:
        with numpy.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        way_out = "record another with book/tools/training_frames.py"
        raise ValueError(f"{file} is damaged ({reason}); {way_out}") from None


def _numbers(film: Mapping[str, Any]) -> list[list[float]]:
    """Return modes found, share between the modes, KL(x) and KL(x_g) at every picture."""
    rows = numpy.stack([film[name] for name in ("modes", "between", "kl", "kl_g")], axis=1)
    shown: list[list[float]] = rows[numpy.isin(film["iteration"], film["frames"])].tolist()
    return shown


def _pictures(film: Mapping[str, Any]) -> bytes:
    """Return the bytes of all pictures, one after the other.

    Each is the samples as little-endian int16, the density as uint8, the posteriors as int16.
    """
    rows = zip(
        film["samples"].astype("<i2"),
        film["density"].astype("u1"),
        film["posteriors"].astype("<i2"),
        strict=True,
    )
    return b"".join(array.tobytes() for row in rows for array in row)
