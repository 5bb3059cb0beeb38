"""Train with the lab's engine in Chromium what its page speaks of, and record the scores.

usage: python book/tools/lab_runs.py modes [SEEDS]   (from the repository's root; 20 s a seed)
       python book/tools/lab_runs.py tasks

`modes`: S-IntroVAE at C1 on 8 Gaussians in the lab and in the package, with two layers of 64,
batches of 128, 3,000 iterations and no warm-up. They draw other random numbers, so the counts of
modes are compared as two samples. The result goes to data/lab/modes.json.
`tasks`: what answers the three tasks of the page, seeds 0 to 2, to data/lab/tasks.json.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asintrovae import RunConfig
from asintrovae.figures import lab
from asintrovae.sweeps.ensemble import run_ensemble
from playwright.sync_api import sync_playwright
from scipy.stats import fisher_exact, mannwhitneyu

FOLDER = Path("data/lab")
C1 = {
    "model": "soft_intro",
    "beta_rec": 0.2,
    "beta_kl": 0.3,
    "beta_neg": 0.9,
    "iterations": 3000,
    "warmup": 0,
    "batch_size": 128,
    "learning_rate": 1e-3,
}
TASKS: dict[str, tuple[str, Sequence[Mapping[str, float]]]] = {  # preset, changes of it
    "collapse": (
        "introvae",
        ({}, {"beta_kl": 1.1}, {"beta_kl": 3.0}, {"beta_kl": 1.1, "beta_rec": 0.05}),
    ),
    "modes": ("c1", ({}, {"beta_neg": 4.0}, {"beta_kl": 4.0}, {"alpha": 32.0})),
    "distance": (
        "with-and-without",
        ({}, {"distance_weight": 0.0}, {"distance_weight": 100.0}),
    ),
}
SCRIPT = """([text, config]) => new Promise((resolve, reject) => {
  const worker = new Worker(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
  worker.onmessage = ({ data }) => {
    if (data.type === "error") reject(new Error(data.message));
    if (data.type === "state" && data.i === 0 && !data.running) worker.postMessage({ type: "run" });
    if (data.type === "state" && data.i === config.iterations && !data.running) {
      worker.terminate();
      resolve({ ...data.view.scores, diverged: data.diverged });
    }
  };
  worker.postMessage({ type: "start", config });
})"""


def worker_text() -> str:
    """Return the program of the lab's worker."""
    parts = (lab.library(), *(lab.FOLDER / name for name in lab.ENGINE))
    return "\n".join(part.read_text(encoding="utf-8") for part in parts)


def trained(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the scores of runs of the lab's engine."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page, text = browser.new_page(), worker_text()
        found = []
        for config in configs:
            found.append(page.evaluate(SCRIPT, [text, dict(config)]))
            print(f"{len(found)} of {len(configs)}", flush=True)
        browser.close()
    return found


def modes(count: int) -> dict[str, Any]:
    """Return the modes that lab and package find with seeds below a count, compared."""
    base = C1 | {"data": "8gaussians", "width": 64, "depth": 2}
    page = [found["modes"] for found in trained([base | {"seed": seed} for seed in range(count)])]
    with tempfile.TemporaryDirectory() as folder:
        configs = [
            RunConfig(**C1, widths=(64, 64), seed=seed, run_dir=f"{folder}/{seed}")
            for seed in range(count)
        ]
        package = [record["metrics"]["modes_found"] for record in run_ensemble(configs)]
    counts = [[sum(modes == 8 for modes in found), count] for found in (page, package)]
    every = [[found, total - found] for found, total in counts]
    return {
        "command": f"python book/tools/lab_runs.py modes {count}",
        "settings": C1 | {"dataset": "8gaussians", "widths": [64, 64]},
        "modes_of_lab": page,
        "modes_of_package": package,
        "p_mann_whitney": float(mannwhitneyu(page, package).pvalue),
        "p_fisher_all_found": float(fisher_exact(every).pvalue),
    }


def tasks(seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:
    """Return task -> rows of the changed parameters and the scores of all seeds."""
    presets, rows = lab.SETTINGS["presets"], []
    for task, (preset, changes) in TASKS.items():
        rows += [(task, presets[preset].get("config", {}), change) for change in changes]
    configs = [
        {**lab.SETTINGS["defaults"], **config, **change, "data": "8gaussians", "seed": seed}
        for _, config, change in rows
        for seed in seeds
    ]
    scores = iter(trained([{**config, "points": None} for config in configs]))
    found: dict[str, Any] = {"command": "python book/tools/lab_runs.py tasks", "seeds": [*seeds]}
    for task, _, change in rows:
        row = {"change": dict(change), "scores": [next(scores) for _ in seeds]}
        found.setdefault(task, []).append(row)
    return found


if __name__ == "__main__":
    study, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20
    result = modes(count) if study == "modes" else tasks()
    (FOLDER / f"{study}.json").write_text(json.dumps(result, indent=1) + "\n")
