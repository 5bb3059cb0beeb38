"""torchvision, also where it stands beside a CPU-only torch; the one place that imports it.

Its wheel from PyPI is linked against CUDA, so that beside a CPU build of torch the import fails
while it registers shapes for two operators that were never loaded. Declaring the two schemas lets
datasets, transforms and models work; torchvision.ops.nms and the codecs of torchvision.io stay
unavailable there, so images are decoded with PIL.
"""

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for _name in ("nms", "qnms"):
        _schema = f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        _library.define(_schema)  # type: ignore[no-untyped-call]
    import torchvision


__all__ = ["torchvision"]
