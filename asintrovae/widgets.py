"""Interactive figures. They compute in the browser, so they also work in the built page, where there is no kernel."""

import math
from pathlib import Path

import anywidget
import torch
import traitlets

from asintrovae.distance import expected_likelihood_kernel


class KernelExplorer(anywidget.AnyWidget):
    """Two posteriors over one latent axis, their product, and the kernels k(μ, λ) they give, live.

    mu_a, mu_b: means in [-4, 4]. var_a, var_b: variances λ in [0.05, 4]. n: number of such axes for the product kernel.
    The browser shows `kernels()` and follows the sliders; from Python, set the traits.
    """

    _esm = Path(__file__).with_name("kernel_explorer.js").read_text()

    mu_a = traitlets.Float(-1.0, min=-4, max=4).tag(sync=True)
    var_a = traitlets.Float(0.5, min=0.05, max=4).tag(sync=True)
    mu_b = traitlets.Float(1.0, min=-4, max=4).tag(sync=True)
    var_b = traitlets.Float(1.0, min=0.05, max=4).tag(sync=True)
    n = traitlets.Int(1, min=1, max=256).tag(sync=True)

    def kernels(self) -> dict[str, float]:
        """What the browser shows, from the package: log10 k for w = 1 and w = p(z), and the per-axis mean kernel."""
        traits = (self.mu_a, self.var_a, self.mu_b, self.var_b)
        a_mean, a_var, b_mean, b_var = (torch.full((1, self.n), trait, dtype=torch.float64) for trait in traits)
        product = expected_likelihood_kernel(a_mean, a_var, b_mean, b_var, log=True)
        prior = expected_likelihood_kernel(a_mean, a_var, b_mean, b_var, weight="prior", log=True)
        mean = expected_likelihood_kernel(a_mean, a_var, b_mean, b_var, reduction="mean")
        return {
            "log10_product": product.item() / math.log(10),
            "log10_prior": prior.item() / math.log(10),
            "mean": mean.item(),
        }
