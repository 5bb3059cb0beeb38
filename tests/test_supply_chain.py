"""What the project takes from others: pinned, listed with licence and hash, and fetched only where
a checksum is looked at."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from collections import defaultdict
from email import message_from_bytes
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version

import pytest
import yaml
from conftest import ROOT
from hatchling.build import build_wheel
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

spec = importlib.util.spec_from_file_location("pins", ROOT / "book" / "tools" / "pins.py")
pins = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pins)
MANIFEST = yaml.safe_load(pins.MANIFEST.read_text())
BROWSER = {
    ".js",
    ".mjs",
    ".css",
    ".map",
    ".wasm",
    ".woff",
    ".woff2",
    ".ttf",
    ".otf",
    ".eot",
    ".svg",
    ".html",
}
LINUX = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
    "python_version": "3.11",
}
LINUX |= {
    "python_full_version": "3.11.4",
    "platform_machine": "x86_64",
    "implementation_name": "cpython",
}
LINUX |= {"platform_python_implementation": "CPython"}


def pinned():
    """Canonical name -> version, from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {
        canonicalize_name(name): number
        for name, number in (line.split("==") for line in lines if not line.startswith("#"))
    }


def tracked():
    """The files of the project; those not committed yet, too, unless git ignores them."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return sorted(path for path in listed if (ROOT / path).is_file())


def declared():
    """Every requirement that pyproject.toml names, with those of the extras and of the build."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    lines = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(line for e in extras for line in e),
    ]
    return [
        requirement for requirement in map(Requirement, lines) if requirement.name != "asintrovae"
    ]


def test_every_declared_requirement_is_pinned_to_a_version_it_allows():
    found = pinned()
    assert len(declared()) > 25
    for requirement in declared():
        name = canonicalize_name(requirement.name)
        assert name in found, f"{requirement.name} is not pinned: make constraints"
        assert requirement.specifier.contains(found[name]), (
            f"{requirement} is pinned to {found[name]}"
        )


# Beside the base: the modules that an extra is for.
OF_EXTRA = {
    "sweep": {f"asintrovae.sweeps.{name}" for name in ("grid", "point", "cluster")},
    "fid": {"torch_fidelity"},
    "hub": {"huggingface_hub"},
}
# What a program of the extra starts without importing it here.
STARTED = {"sweep": {"ipykernel"}}
DISTRIBUTIONS = packages_distributions()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the project, as hatchling builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return zipfile.ZipFile(folder / build_wheel(str(folder)))


def required(wheel):
    """Extra, or "" -> canonical names of what the wheel's metadata requires for it."""
    (path,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    found = defaultdict(set)
    for line in message_from_bytes(wheel.read(path)).get_all("Requires-Dist"):
        requirement = Requirement(line)
        extra = re.search(r"extra == ['\"]([\w-]+)", str(requirement.marker))
        found[extra[1] if extra else ""].add(canonicalize_name(requirement.name))
    return found


def third_party(path):
    """Top-level names of other distributions that a module of the package imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        yield from (
            {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"asintrovae"}
        )


def test_the_wheel_requires_what_its_modules_import(wheel):
    """An extra also what its own modules import and its programs start."""
    needs = required(wheel)
    assert STARTED["sweep"] <= needs["sweep"]
    seen = set()
    for path in sorted((ROOT / "asintrovae").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for name in third_party(path):
            extra = [extra for extra, own in OF_EXTRA.items() if own & {module, name}]
            allowed = needs[""].union(*(needs[extra] for extra in extra))
            brought = {
                canonicalize_name(distribution) for distribution in DISTRIBUTIONS.get(name, [name])
            }
            assert brought & allowed, f"{module} imports {name}, which the wheel does not require"
            seen.add(name)
    assert {"torch", "yaml", "torch_fidelity", "dask"} <= seen


def test_the_wheel_says_that_it_has_types(wheel):
    assert "asintrovae/py.typed" in wheel.namelist()


def test_the_wheel_has_the_trained_models(wheel):
    folder = "asintrovae/_data/pretrained/"
    names = {name.removeprefix(folder) for name in wheel.namelist() if name.startswith(folder)}
    assert names == {path.name for path in (ROOT / "data" / "pretrained").iterdir()}
    assert {"soft_intro-mnist.json", "soft_intro-mnist.safetensors"} < names
    assert sum(wheel.getinfo(folder + name).file_size for name in names) < 12_000_000


def test_what_they_require_is_pinned_too():
    """Followed through what is installed here, as on Linux with the Python of the pins."""
    found, seen = pinned(), set()
    todo = [
        (canonicalize_name(requirement.name), frozenset(requirement.extras))
        for requirement in declared()
    ]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen or name == "torch":  # torch pins its own, others on each platform
            continue
        seen.add((name, extras))
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue  # an extra that this machine does without
        for requirement in map(Requirement, lines):
            needed = requirement.marker is None or any(
                requirement.marker.evaluate({**LINUX, "extra": extra}) for extra in extras | {""}
            )
            if needed:
                assert canonicalize_name(requirement.name) in found, (
                    f"{name} needs {requirement}: make constraints"
                )
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    assert len(seen) > 60


def test_conda_and_pip_pin_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert pip == [*lines, "-e ."]
    assert (ROOT / "environment.yml").read_text() == pins.environment(lines)


def test_a_refresh_that_fails_leaves_the_pins(tmp_path, monkeypatch):
    """No index, no network: one command fails, nothing is written."""
    before = (ROOT / "constraints.txt").read_bytes()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")
    with pytest.raises(subprocess.CalledProcessError):
        pins.pins()
    assert (ROOT / "constraints.txt").read_bytes() == before


def test_files_for_a_browser_in_the_repository_are_own_or_listed():
    listed = {entry["file"]: entry for entry in MANIFEST["vendored"]}
    found = [path for path in tracked() if os.path.splitext(path)[1] in BROWSER]
    unknown = set(found) - set(MANIFEST["own"]) - set(listed)
    assert not unknown, f"list in book/browser_files.yml, as own or as vendored: {sorted(unknown)}"
    assert set(MANIFEST["own"]) | set(listed) <= set(found), (
        "book/browser_files.yml lists what is not there"
    )
    for path, entry in listed.items():
        assert entry.keys() == {"name", "version", "licence", "source", "file", "sha256"}
        assert entry["sha256"] == pins.hashlib.sha256((ROOT / path).read_bytes()).hexdigest(), path
    for path in MANIFEST["own"]:
        text = (ROOT / path).read_text()
        assert not re.search(r"@license|@preserve|^/\*!", text, re.MULTILINE), (
            f"{path} bears the licence of someone else"
        )
        assert max(map(len, text.splitlines())) < 1000, f"{path} is minified: it is not edited here"


@pytest.mark.parametrize("component", MANIFEST["packages"], ids=lambda component: component["name"])
def test_what_packages_bring_to_the_browser_is_as_listed(component):
    assert component.keys() == {"name", "version", "licence", "package", "files", "sha256"}
    assert canonicalize_name(component["package"]) in pinned()
    if version(component["package"]) != pinned()[canonicalize_name(component["package"])]:
        pytest.skip(f"{component['package']} is installed in another version than the pinned one")
    paths = pins.brought(component)
    assert paths, f"{component['files']} matches nothing"
    assert pins.digest(paths) == component["sha256"]
    if component["name"] == component["package"]:
        assert component["version"] == version(component["package"])
    else:
        texts = (path.read_text() for path in paths if path.suffix in {".js", ".css", ".txt"})
        said = re.compile(rf"(v|VERSION=\"|Free ){re.escape(component['version'])}\b")
        assert any(said.search(text) for text in texts), (
            f"no file says that it is of version {component['version']}"
        )


@pytest.mark.xdist_group("small_book")
def test_the_built_pages_bring_nothing_that_is_not_listed(small_book):
    """Byte for byte: each file is one of ours, of a listed package, or named as written for this
    build."""
    vendored = [entry["file"] for entry in MANIFEST["vendored"]]
    own = {(ROOT / path).read_bytes() for path in (*MANIFEST["own"], *vendored)}
    theirs = {
        path.read_bytes() for component in MANIFEST["packages"] for path in pins.brought(component)
    }
    built = [path for path in (small_book / "_static").rglob("*") if path.suffix in BROWSER]
    assert len(built) > 100
    for path in built:
        listed = path.read_bytes() in own | theirs or path.name in MANIFEST["generated"]
        assert listed, f"{path.relative_to(small_book)} is in no entry of book/browser_files.yml"


FETCHERS = (
    r"urlopen|urlretrieve|requests\.\w+|load_state_dict_from_url|download_url\w*"
    r"|download_and_\w+|hub\.load|wget|curl"
)


def test_nothing_is_fetched_without_a_checksum():
    """Every call of the package that reaches the network, but for those in torchvision, names a
    checksum."""
    calls = []
    for path in sorted((ROOT / "asintrovae").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and re.search(
                rf"\b({FETCHERS})$", ast.unparse(node.func)
            ):
                calls.append(ast.unparse(node))
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                checked = given.get("check_hash") == "True" or given.keys() & {
                    "md5",
                    "hash_prefix",
                    "sha256",
                }
                assert checked, (
                    f"{path.name}:{node.lineno} fetches without a checksum: {ast.unparse(node)}"
                )
        assert not re.search(
            r"\b(import|from) (urllib|requests|httpx|aiohttp|http|ftplib)\b", path.read_text()
        ), path
        assert not re.search(r"\bsocket\.(?!gethostname\b)", path.read_text()), path
    assert calls, "the weights of FID are fetched somewhere"


def test_data_sets_are_fetched_with_checksums():
    """What torchvision would download, caught before it does: each file comes with the MD5 that it
    must have."""
    from asintrovae.data.sources import OPENERS, torchvision_datasets

    utils = torchvision_datasets().utils
    names = [name for name in vars(utils) if name.startswith("download_")]
    for name, fetch in OPENERS.items():
        asked = []

        def note(*arguments, asked=asked, **given):
            asked.append([*arguments, *given.values()])
            raise KeyboardInterrupt  # nothing else stops torchvision from trying the next mirror

        with pytest.MonkeyPatch.context() as patch:
            for module in vars(torchvision_datasets()).values():
                for function in names if hasattr(module, "__spec__") else []:
                    patch.setattr(module, function, note, raising=False)
            with pytest.raises(KeyboardInterrupt):
                fetch(ROOT / "_build" / "nowhere", True)
        assert any(re.fullmatch(r"[0-9a-f]{32}", str(value)) for value in asked[0]), (
            f"{name} is fetched without a checksum"
        )


def test_licences_of_the_embedded_data_are_stated():
    for folder in ("mnist-subset", "mnist-classifier"):
        text = (ROOT / "data" / folder / "README.md").read_text()
        assert re.search(r"CC.?BY|MIT|licen[cs]e", text, re.IGNORECASE), folder
        sums = (ROOT / "data" / folder / "SHA256SUMS").read_text().split()
        binary = {
            p.name
            for p in (ROOT / "data" / folder).iterdir()
            if fnmatch(p.name, "*.gz") or p.suffix == ".safetensors"
        }
        assert binary == set(sums[1::2])
