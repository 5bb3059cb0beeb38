"""Train four models on 8 Gaussians and keep the frames of the book's film.

They go to data/runs/training_frames.

usage: python book/tools/training_frames.py   (from the repository's root; minutes on one core)
Setting C1, laptop protocol (the defaults of the training notebooks), seed 0. Each run leaves
record.json, history.csv
and frames.npz, which `asintrovae.figures.widgets.load_film` reads:
    iteration (L,)          every logged iteration, the untrained model's 0 first
    kl, kl_g, distance (L,) means over 256 real or generated points, terms of the objectives
    modes, between (L,)     modes found and share of samples beyond 0.2 of every mode, of 5,000
    frames (F,)             iterations of the pictures
    samples (F, 300, 2)     generated points, int16, thousandths
    density (F, 32, 32)     counts of 5,000 samples on [-2, 2]², at most 255; rows from above
    posteriors (F, 2, 24, 4)  of real and of generated points: two means, two standard deviations;
                            int16, thousandths
"""

import numpy
import torch
from asintrovae import (
    ASIntroVAE,
    RunConfig,
    build_data,
    build_model,
    build_objective,
    evaluate,
    sample,
    save_record,
)
from asintrovae.evaluation.measures import modes_found
from asintrovae.randomness import generator_for
from asintrovae.running.loop import Loop
from asintrovae.theory.batchnorm import evaluating
from asintrovae.theory.objectives import Noise

MODELS = ("vae", "intro", "soft_intro", "as_intro")
FRAMES = (0, 100, 300, *range(500, 1601, 100), *range(2000, 8001, 400))


class FilmedLoop(Loop):
    """A run that is looked at wherever it logs."""

    def log(self, done: int, terms: dict[str, torch.Tensor]) -> None:
        """Log, and look."""
        super().log(done, terms)
        self.look(done)

    def look(self, done: int) -> None:
        """Add the numbers, and where it is due the picture, of the model as it is."""
        if done == 0:
            self.numbers: dict[str, list[float]] = {}
            self.pictures: dict[str, list[numpy.ndarray]] = {}
        with evaluating(self.model):
            numbers, pictures = picture(self.model, self.data)
        for name, value in ({"iteration": done} | numbers).items():
            self.numbers.setdefault(name, []).append(value)
        if done in FRAMES:
            for name, value in pictures.items():
                self.pictures.setdefault(name, []).append(value)


def picture(model: torch.nn.Module, data) -> tuple[dict, dict]:
    """Numbers and picture of a model, from the same draws whatever the model."""
    real, noise = data.evaluation(256), Noise.draw(256, 2, generator_for(0, "evaluation"))
    x_g = sample(model, 5000, seed=0)
    _, terms = ASIntroVAE(c=0.0).encoder_loss(model, real, noise, 0.0)
    near = torch.cdist(x_g, data.density.centers).amin(1) <= 0.2
    numbers = {name: terms[name].item() for name in ("kl", "kl_g", "distance")}
    numbers |= {
        "modes": modes_found(x_g, data.density.centers, radius=0.2),
        "between": 1 - near.double().mean().item(),
    }
    q = [model.encode(x[:24]) for x in (real, x_g)]
    ellipses = torch.stack([torch.cat([q_s.mean, q_s.var.sqrt()], dim=1) for q_s in q])
    counts = torch.histogramdd(x_g, [32, 32], range=[-2.0, 2.0, -2.0, 2.0]).hist
    return numbers, {
        "samples": thousandths(x_g[:300]),
        "density": counts.T.flip(0).clamp(max=255).numpy().astype(numpy.uint8),
        "posteriors": thousandths(ellipses),
    }


def thousandths(values: torch.Tensor) -> numpy.ndarray:
    """Values as int16, clipped to ±32.767."""
    return (1000 * values).round().clamp(-32767, 32767).numpy().astype(numpy.int16)


def film(name: str) -> None:
    """Train one model and write its run."""
    config = RunConfig(
        model=name,
        seed=0,
        threads=1,
        device="cpu",
        checkpoint_every=8000,
        run_dir=f"data/runs/training_frames/{name}-0",
    )
    torch.set_num_threads(1)
    data = build_data(config)
    model = build_model(config, data.shape)
    loop = FilmedLoop(model, build_objective(config), data, config)
    loop.resume()
    loop.look(0)
    loop.run(name)
    assert loop.result.divergence is None, loop.result.divergence
    save_record(config, loop.result, evaluate(model, data, config))
    numbers = {key: numpy.array(column, numpy.float32) for key, column in loop.numbers.items()}
    pictures = {key: numpy.stack(column) for key, column in loop.pictures.items()}
    numpy.savez_compressed(
        loop.run_dir / "frames.npz", frames=numpy.array(FRAMES), **numbers, **pictures
    )
    for file in loop.run_dir.glob("checkpoint*"):
        file.unlink()


if __name__ == "__main__":
    for each in MODELS:
        film(each)
