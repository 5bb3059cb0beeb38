"""The lab: introspective autoencoders that train in the reader's browser.

Its page is written in state.js (settings, addresses, the tour), pictures.js and lab.js. What trains
is written in networks.js, objectives.js, densities.js and engine.js, and runs in a worker on the
library in vendor/.
"""

import difflib
import json
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from asintrovae.figures.widgets import module

FOLDER = Path(__file__).parent
PAGE = ("state.js", "pictures.js", "lab.js")
ENGINE = ("networks.js", "objectives.js", "densities.js", "engine.js")
SETTINGS: dict[str, Any] = json.loads((FOLDER / "presets.json").read_bytes())
"""`defaults` of every setting, and `presets`: id -> label, about, config, compare."""


def library() -> Path:
    """Return the file of the library that differentiates in the browser."""
    (file,) = (FOLDER / "vendor").glob("*.js")
    return file


def _text(name: str) -> str:
    """Return the text of a file of this folder."""
    return (FOLDER / name).read_text(encoding="utf-8")


def _page() -> str:
    """Return the widget's JavaScript, with settings and engine as constants before it."""
    constants = {
        "PRESETS": SETTINGS["presets"],
        "DEFAULTS": SETTINGS["defaults"],
        "ENGINE": "".join(_text(name) for name in ENGINE),
    }
    given = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in constants.items())
    return module(*(f"lab/{name}" for name in PAGE), constants=given)


class Lab(anywidget.AnyWidget):
    """Introspective autoencoders that train in the page, with sliders for their weights.

    It shows the energy of the encoder under real and generated points, the codes, the curves of
    both losses and the scores of the toy tables. It needs a browser with WebAssembly.

    Args:
        values: of the attributes.

    Attributes:
        preset: id of the setting to begin with, a key of `SETTINGS["presets"]`.
        config: parameters that differ from the preset, by RunConfig's names; `width` and `depth`
            stand for `widths`. The page stores all of them here.
        compare: parameters of a second model beside the first; empty for none.
        compact: show one plane, a button and the number of modes alone.

    Raises:
        traitlets.TraitError: for an unknown preset or parameter; it names the nearest one.

    Example:
        >>> Lab(preset="collapse", config={"seed": 3}).config
        {'seed': 3}
    """

    _esm = _page()

    preset = traitlets.Unicode("c1").tag(sync=True)
    config: Any = traitlets.Dict().tag(sync=True)
    compare: Any = traitlets.Dict().tag(sync=True)
    compact = traitlets.Bool(False).tag(sync=True)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.on_msg(self._answer)

    def _answer(self, widget: Any, content: Any, buffers: Any) -> None:
        """Send the library to a page that asks for it."""
        if content.get("want") == "library":
            self.send({"library": library().name}, [library().read_bytes()])

    @traitlets.validate("preset")
    def _known_preset(self, proposal: Any) -> str:
        return _known("preset", str(proposal["value"]), SETTINGS["presets"])

    @traitlets.validate("config", "compare")
    def _known_names(self, proposal: Any) -> dict[str, Any]:
        trait = proposal["trait"].name
        for name in proposal["value"]:
            _known(trait, name, SETTINGS["defaults"])
        return dict(proposal["value"])


def _known(trait: str, name: str, names: Any) -> str:
    """Return a name of a preset or parameter, or raise TraitError with the nearest one."""
    if name not in names:
        near = difflib.get_close_matches(name, names, 1) or [", ".join(names)]
        raise traitlets.TraitError(f"{trait}: {name!r} is not known; did you mean {near[0]}?")
    return name
