"""Examples in the docstrings: each prints what it says, with the public names imported."""

import doctest
import importlib
import pkgutil

import torch

import asintrovae


def examples():
    """Docstrings with an example, of every module that has one."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    names = {name: getattr(asintrovae, name) for name in asintrovae.__all__}
    for module in pkgutil.walk_packages(asintrovae.__path__, "asintrovae."):
        if not module.name.endswith(("__main__", "worker")):
            found = importlib.import_module(module.name)
            for test in finder.find(found, globs={"torch": torch, **names, **vars(found)}):
                if test.examples:
                    yield test


def test_examples_of_the_docstrings_print_what_they_say():
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    count = 0
    for test in examples():
        torch.manual_seed(0)
        report = []
        runner.run(test, out=report.append)
        assert runner.failures == 0, "".join(report)
        count += len(test.examples)
    assert count > 20
