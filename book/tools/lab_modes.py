"""Train S-IntroVAE at C1 on 8 Gaussians with the lab in Chromium and with the package, and compare
how many modes they find.

usage: python book/tools/lab_modes.py [SEEDS]   (from the repository's root; 20 s a seed)
Both have two layers of 64, batches of 128, 3,000 iterations and no warm-up. They draw other random
numbers, so the counts are compared as two samples. The result goes to data/lab/modes.json.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from asintrovae import RunConfig
from asintrovae.figures import lab
from asintrovae.sweeps.ensemble import run_ensemble
from playwright.sync_api import sync_playwright
from scipy.stats import fisher_exact, mannwhitneyu

RESULT = Path("data/lab/modes.json")
SETTINGS = {
    "model": "soft_intro",
    "beta_rec": 0.2,
    "beta_kl": 0.3,
    "beta_neg": 0.9,
    "iterations": 3000,
    "warmup": 0,
    "batch_size": 128,
    "learning_rate": 1e-3,
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


def of_the_lab(seeds: range) -> list[int]:
    """Return the modes that the lab finds with each seed."""
    config = SETTINGS | {"data": "8gaussians", "width": 64, "depth": 2}
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page, text = browser.new_page(), worker_text()
        found = []
        for seed in seeds:
            found.append(page.evaluate(SCRIPT, [text, config | {"seed": seed}])["modes"])
            print(f"lab, seed {seed}: {found[-1]} modes", flush=True)
        browser.close()
    return found


def of_the_package(seeds: range) -> list[int]:
    """Return the modes that the package finds with each seed."""
    with tempfile.TemporaryDirectory() as folder:
        configs = [
            RunConfig(**SETTINGS, widths=(64, 64), seed=seed, run_dir=f"{folder}/{seed}")
            for seed in seeds
        ]
        return [record["metrics"]["modes_found"] for record in run_ensemble(configs)]


def main(count: int) -> None:
    """Train both, compare and write the result."""
    package, page = of_the_package(range(count)), of_the_lab(range(count))
    counts = [[sum(modes == 8 for modes in found), count] for found in (page, package)]
    every = [[found, total - found] for found, total in counts]
    result = {
        "command": f"python book/tools/lab_modes.py {count}",
        "settings": SETTINGS | {"dataset": "8gaussians", "widths": [64, 64]},
        "modes_of_lab": page,
        "modes_of_package": package,
        "p_mann_whitney": float(mannwhitneyu(page, package).pvalue),
        "p_fisher_all_found": float(fisher_exact(every).pvalue),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
