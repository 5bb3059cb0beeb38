"""FID of real training images against real test images.

It is what a perfect generator would score, and a check of our FID.

usage: python -m asintrovae.evaluation.check_fid cifar10 --count 2000 --fid-weights PATH
An interrupted computation goes on where it was: features are kept (see `real_features`), 500
images at a time.
"""

import argparse
from collections.abc import Sequence

from asintrovae.build import threads_for
from asintrovae.config import DATASETS, RunConfig
from asintrovae.data.images import decoded, image_shape, report
from asintrovae.data.sources import find_images
from asintrovae.evaluation.evaluate import TOGETHER
from asintrovae.evaluation.feature_cache import real_features
from asintrovae.evaluation.features import RESIZE, build_features
from asintrovae.evaluation.measures import frechet_distance, moments
from asintrovae.threads import torch_threads


def real_against_real(config: RunConfig, count: int | None) -> str:
    """Return one line: FID of the first training images against the first test images.

    Args:
        config: parameters with dataset, feature_network and where both are found.
        count: images of each split, in the data set's own order; None takes all. A split with fewer
            images is taken whole.

    Raises:
        ValueError: for a split of fewer than two images, and as `build_features` and `find_images`,
            which also raise FileNotFoundError and ModuleNotFoundError.
    """
    network = build_features(config)
    assert network is not None
    splits, features = find_images(config.dataset, config.data_dir, config.download), []
    for split, title in zip(splits, ("train", "test"), strict=True):
        images, problems = decoded(split[:count], image_shape(config)[1], title)
        report(problems, config.strict_images)
        if len(images) < 2:
            found = f"data_dir={config.data_dir!r}: {title} has {len(images)} images"
            raise ValueError(f"{found}, FID needs at least 2; add images")
        features.append(real_features(network, images, config.dataset, title))
    fid = float(frechet_distance(*moments(features[0]), *moments(features[1])))
    counts = " against ".join(
        f"{len(part):,} {title}"
        for part, title in zip(features, ("training", "test images"), strict=True)
    )
    how = f"{config.fid_precision}, {network.device.type}, {RESIZE}, weights {network.weights[:12]}"
    return f"{config.dataset}, first {counts}: FID {fid:.2f} ({how})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=DATASETS["images"])
    parser.add_argument("--count", type=int, help="images of each split; all without it")
    parser.add_argument(
        "--fid-weights",
        metavar="PATH",
        help="InceptionV3's weights; without it torchmetrics downloads them",
    )
    parser.add_argument(
        "--fid-precision",
        default="32-true",
        help="32-true or bf16-mixed, which is faster and changes the score",
    )
    parser.add_argument(
        "--data-dir",
        metavar="PATH",
        help="folder of the data sets, else $ASINTROVAE_DATA, else ./data",
    )
    parser.add_argument(
        "--download", action="store_true", help="fetch a data set that is not there"
    )
    parser.add_argument("--device", default="auto")
    given = vars(parser.parse_args(arguments))
    count = given.pop("count")
    if count is not None and count < 2:
        parser.error(f"--count {count}: a covariance needs at least 2 images of each split")
    try:
        config = RunConfig(**given, feature_network="inception", run_dir="-")
        with torch_threads(threads_for(config, TOGETHER)):
            print(real_against_real(config, count))
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
