"""Plugin for the nbval runs of the tests: kernels listen on sockets of their own in the file system, not on ports.

Jupyter picks free ports and hands them to the kernel, which binds them a moment later; with many kernels and a browser on
one machine something else can have taken them by then.
"""

import functools

import nbval.kernel

nbval.kernel.KernelManager = functools.partial(nbval.kernel.KernelManager, transport="ipc")
