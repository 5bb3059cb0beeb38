"""Kernels of the tests listen on sockets of their own in the file system, not on ports; also a
plugin that tells nbval so.

Jupyter picks free ports and hands them to the kernel, which binds them a moment later; with many
kernels and a browser on one machine something else can have taken them by then.
"""

import atexit
import functools
import shutil
import tempfile

import nbval.kernel
from traitlets.config import Config


def own_sockets() -> Config:
    """Configuration for one kernel."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})


nbval.kernel.KernelManager = functools.partial(nbval.kernel.KernelManager, config=own_sockets())
