"""The compiled part of the pretended GPU, and which machines can have it, without torch."""

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TRIED = "2.13.0"
"""Version of torch that the stub was tried with."""
COMPILERS = ("g++", "c++", "clang++")
SOURCE = Path(__file__).with_name("stub.cpp")


def reason_to_skip():
    """Why this machine cannot pretend, in one line; empty where it can. torch is not imported."""
    version = importlib.metadata.version("torch")
    if version.split("+")[0] != TRIED:
        return f"the pretended GPU was tried with torch {TRIED}, here is {version}"
    if not any(map(shutil.which, COMPILERS)):
        return f"no C++ compiler ({', '.join(COMPILERS)}) to build the pretended GPU"
    root = Path(importlib.util.find_spec("torch").submodule_search_locations[0])
    if sys.platform != "linux" or list((root / "lib").glob("libtorch_cuda*")):
        return "the pretended GPU stands in for CUDA in a torch for Linux without it"
    return ""


def built_stub():
    """Path of the compiled stub; it is kept in the temporary folder, by source and version."""
    root = Path(importlib.util.find_spec("torch").submodule_search_locations[0])
    text = f"{SOURCE.read_text()}{importlib.metadata.version('torch')}{root}{os.getuid()}"
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = Path(tempfile.gettempdir()) / f"pretended-cuda-{key}.so"
    if not path.exists():
        compiler = next(filter(shutil.which, COMPILERS))
        unfinished = path.with_suffix(f".{os.getpid()}.so")
        options = ["-std=c++20", "-O0", "-w", "-shared", "-fPIC", f"-I{root / 'include'}"]
        libraries = [f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{root / 'lib'}"]
        command = [compiler, *options, str(SOURCE), "-o", str(unfinished), *libraries]
        subprocess.run(command, check=True)
        os.replace(unfinished, path)  # several processes may build it
    return path
