"""Notebooks and papermill in the process of the tests: as it runs them, without a kernel."""

import contextlib
import shlex
import warnings

import matplotlib.pyplot as plt
import nbformat
import papermill
import torch
from conftest import ROOT
from IPython.core.inputtransformer2 import TransformerManager
from papermill.cli import papermill as command_line


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def run_cells(notebook):
    """Execute the code of a notebook in this process."""
    namespace, python = {}, TransformerManager()
    with (
        torch.random.fork_rng(),
        plt.rc_context({"backend": "agg"}),
        warnings.catch_warnings(action="ignore"),
    ):
        for cell in code_cells(notebook):
            exec(python.transform_cell(cell.source), namespace)
        plt.close("all")


def execute_here(path, parameters):
    """Execute a notebook with parameters in this process: what papermill does, without a kernel."""
    notebook = papermill.iorw.load_notebook_node(str(path))
    run_cells(papermill.parameterize.parameterize_notebook(notebook, parameters))


def papermill_here(command):
    """Run a papermill command of one line in this process, from the folder of the project.

    The command line of papermill reads it and writes the notebook; its code is executed here.
    """
    name, *arguments = shlex.split(command.replace("\\\n", " "))
    assert name == "papermill"
    with contextlib.chdir(ROOT):
        command_line.main([*arguments, "--prepare-only"], standalone_mode=False)
        run_cells(nbformat.read(arguments[1], as_version=4))
