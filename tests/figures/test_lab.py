"""The page of the lab, opened as a file: what one sees and does there, by mouse and by keyboard.

What the engine computes is tested in test_lab_engine.py.
"""

import contextlib
import json
import shutil

import pytest
from conftest import ROOT
from ipywidgets.embed import embed_data
from traitlets import TraitError

from asintrovae.figures.lab import SETTINGS, Lab, library

pytestmark = pytest.mark.xdist_group("widgets")  # one worker starts the browser once
SHORT = {"width": 32, "batch_size": 32}
DARK = "body { background: #121212; color: #dddddd; color-scheme: dark }"
LAB = "document.querySelector('.lab').lab"
FIRST = f"{LAB}.sides[0].state"


def write_page(folder, style="", **values):
    """A built page with a lab, and beside it what such a page loads."""
    found = embed_data(views=[Lab(**values)], drop_defaults=False)
    state, view = (
        json.dumps(part).replace("</", "<\\/")
        for part in (found["manager_state"], found["view_specs"][0])
    )
    static, kind = folder / "_static", "application/vnd.jupyter.widget-"
    (static / "lab").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "book" / "static" / "static_widgets.js", static)
    shutil.copy(library(), static / "lab" / "library.js")
    (folder / "lab.html").write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>lab</title><style>figure {{ margin: 0 }} {style}</style>"
        f'<script type="{kind}state+json">{state}</script>'
        f'<figure><script type="{kind}view+json">{view}</script></figure>'
        '<script src="_static/static_widgets.js"></script></html>',
        encoding="utf-8",
    )
    return (folder / "lab.html").as_uri()


@contextlib.contextmanager
def labs(browser, folder):
    """Function that opens a lab and returns its page; nothing may go wrong on it or be asked for
    from elsewhere."""
    wrong, pages = [], []

    def open_page(
        address="", style="", width=1280, motion="no-preference", script="", ready=True, **values
    ):
        url = write_page(folder, style, **values)
        page = browser.new_page(viewport={"width": width, "height": 900}, reduced_motion=motion)
        page.add_init_script(script)
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda r: (
                None
                if r.url.startswith((folder.as_uri(), "blob:", "data:"))
                else wrong.append(r.url)
            ),
        )
        page.goto(url + address)
        page.wait_for_selector(".lab")
        pages.append(page)
        if ready:
            page.wait_for_function(f"{FIRST}?.view?.samples", timeout=60_000)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert wrong == []


@pytest.fixture
def show(browser, tmp_path):
    with labs(browser, tmp_path) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def followed(browser, tmp_path_factory):
    """A lab that follows its address from one setting to the next."""
    with labs(browser, tmp_path_factory.mktemp("followed")) as open_page:
        yield open_page("#lab=alpha:8")


@pytest.fixture(scope="module")
def chosen(browser, tmp_path_factory):
    """A lab whose data sets are chosen one after the other."""
    with labs(browser, tmp_path_factory.mktemp("chosen")) as open_page:
        yield open_page(config=SHORT)


def press(page, name):
    page.locator(f"[data-name={name}]").click()


def samples(page, side=0):
    return page.evaluate(f"Array.from({LAB}.sides[{side}].state.view.samples)")


def iteration(page, side=0):
    return page.evaluate(f"{LAB}.sides[{side}].state.i")


def play_to(page, iterations):
    """Press Play, where the run is as long as that, and wait for its end."""
    press(page, "play")
    page.wait_for_function(
        f"{FIRST}.i >= {iterations} && !{FIRST}.running && !{LAB}.sides[0].waiting", timeout=60_000
    )
    assert iteration(page) == iterations
    page.wait_for_function("document.querySelector('[data-name=play]').textContent === 'Play'")


def take_steps(page, count):
    for _ in range(count):
        before = page.evaluate(f"{LAB}.count")
        press(page, "step")
        page.wait_for_function(f"{LAB}.count > {before}")


# --- training


def test_it_trains_and_pauses(show):
    page = show(config=SHORT)
    assert iteration(page) == 0
    page.wait_for_timeout(500)
    assert iteration(page) == 0  # nothing begins by itself
    press(page, "play")
    page.wait_for_function(f"{FIRST}.i > 10")
    middle = iteration(page)
    page.wait_for_function(f"{FIRST}.i > {middle + 10}")
    press(page, "play")
    page.wait_for_function(f"!{FIRST}.running")
    stopped = iteration(page)
    page.wait_for_timeout(400)
    assert iteration(page) == stopped
    assert f"iteration {stopped:,} of 3,000" in page.locator(".clock").inner_text()
    assert page.locator("[data-name=play]").inner_text() == "Play"
    scores = page.locator(".scores tbody tr").all_inner_texts()
    assert len(scores) == 7
    assert all("–" not in row for row in scores)


def test_a_step_is_one_phase_and_shows_who_is_pulled_where(show):
    page = show(config=SHORT)
    take_steps(page, 1)
    assert "Encoder: energy up" in page.locator(".stepping").inner_text()
    assert page.evaluate(f"{FIRST}.view.arrows.length") >= 4 * 20
    take_steps(page, 1)
    assert "Decoder: it moves" in page.locator(".stepping").inner_text()
    assert page.evaluate(f"{FIRST}.view.arrows.length") >= 4 * 20
    press(page, "play")
    page.wait_for_function(f"{FIRST}.i > 3")
    assert page.locator(".stepping").inner_text() == ""


def test_the_seed_and_the_weights_alone_decide_on_a_run(show):
    """Steps and play give the same run; a weight that changes in the middle gives another."""
    page = show(config={**SHORT, "iterations": 20})
    play_to(page, 20)
    first = samples(page)
    press(page, "restart")
    page.wait_for_function(f"{FIRST}.i === 0")
    assert samples(page) != first
    take_steps(page, 20)
    assert iteration(page) == 10
    play_to(page, 20)
    assert samples(page) == first
    press(page, "restart")
    page.wait_for_function(f"{FIRST}.i === 0")
    take_steps(page, 20)
    page.locator("input[name=beta_neg]").fill("4")
    play_to(page, 20)
    changed = samples(page)
    assert changed != first
    page.locator("input[name=beta_neg]").fill("0.9")
    page.locator("summary").click()
    page.locator("input[name=seed]").fill("1")
    page.locator("input[name=seed]").press("Enter")
    page.wait_for_function(f"{FIRST}.i === 0")
    play_to(page, 20)
    assert samples(page) not in (first, changed)


def test_two_models_have_one_clock(show):
    config = {**SHORT, "iterations": 40}
    page = show(config=config, compare={"model": "intro"})
    page.wait_for_function(f"{LAB}.sides[1].state?.view?.samples")
    play_to(page, 40)
    assert iteration(page, 1) == 40
    alone = show(config={**config, "model": "intro"})
    play_to(alone, 40)
    assert samples(page, 1) == samples(alone)
    assert samples(page, 0) != samples(alone)
    page.locator("input[name=compare]").uncheck()
    assert page.locator(".side").count() == 1


def test_two_models_that_train_stop_together_take_a_step_and_go_on(show):
    page = show(config={**SHORT, "iterations": 100_000}, compare={"model": "intro"})
    page.wait_for_function(f"{LAB}.sides[1].state?.view?.samples")
    press(page, "play")
    page.wait_for_function(f"{FIRST}.i > 30")
    press(page, "step")
    page.wait_for_function(f"{LAB}.sides.every(({{ state }}) => state.view.arrows)")
    assert iteration(page, 0) == iteration(page, 1)
    assert page.evaluate(f"{FIRST}.phase") == "encoder"
    stopped = iteration(page)
    press(page, "play")
    page.wait_for_function(f"{LAB}.sides.every(({{ state }}) => state.i > {stopped + 30})")


@pytest.mark.parametrize("preset", SETTINGS["presets"])
def test_each_preset_has_an_address_and_trains(followed, preset):
    page, address = followed, f"#lab=preset:{preset}"
    page.evaluate("address => { location.hash = address }", address)
    page.wait_for_function(f"{LAB}.address().endsWith('{address}')", timeout=60_000)
    press(page, "restart")  # else a preset that changes weights alone goes on
    page.wait_for_function(f"!{LAB}.sides[0].waiting && {FIRST}.i === 0", timeout=60_000)
    assert page.locator("select[name=preset]").input_value() == preset
    press(page, "play")
    page.wait_for_function(f"{FIRST}.i >= 4", timeout=60_000)
    press(page, "play")
    assert not page.locator(".error").is_visible()


@pytest.mark.parametrize("dataset", ["25gaussians", "checkerboard", "2spirals", "rings", "drawn"])
def test_each_data_set_is_drawn_and_trained_on(chosen, dataset):
    page = chosen
    page.locator("select[name=dataset]").select_option(dataset)
    page.wait_for_function(f"!{LAB}.sides[0].waiting && {FIRST}.i === 0")
    press(page, "play")
    page.wait_for_function(f"{FIRST}.i >= 4")
    press(page, "play")
    assert f"dataset:{dataset}" in page.evaluate(f"{LAB}.address()")


def test_the_reader_draws_the_data(show):
    page = show(config={**SHORT, "dataset": "drawn"})
    plane = page.locator("canvas.data")
    press(page, "erase")
    box = plane.bounding_box()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.25 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"], steps=10)
    page.mouse.up()
    drawn = page.evaluate(f"{LAB}.setting().config.points")
    assert len(drawn) == 4 * 11
    assert {drawn[k + 2 : k + 4] for k in range(0, len(drawn), 4)} == {"bf"}  # y = 1
    plane.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    assert len(page.evaluate(f"{LAB}.setting().config.points")) == 4 * 12


# --- settings, the address, the tour


def test_the_address_holds_the_setting(show):
    page = show()
    page.locator("select[name=model]").select_option("as_intro")
    page.locator("input[name=beta_neg]").fill("2.5")
    page.locator("input[name=annealed]").uncheck()
    page.locator("input[name=c]").fill("0.25")
    page.locator("select[name=kernel]").select_option("product")
    page.locator("input[name=compare]").check()
    page.locator("select[name='compare.model']").select_option("intro")
    page.locator("input[name='compare.margin']").fill("4")
    page.wait_for_function("location.hash.includes('compare.margin')")
    address, setting = page.evaluate("location.hash"), page.evaluate(f"{LAB}.setting()")
    again = show(address)
    assert again.evaluate(f"{LAB}.setting()") == setting
    assert setting["compare"] == {"model": "intro", "margin": 2}
    assert setting["config"]["c"] == 0.25
    again.evaluate("location.hash = '#lab=preset:collapse'")
    again.wait_for_function(f"{LAB}.setting().config.beta_kl === 3")


def test_an_address_that_says_nonsense_is_read_as_far_as_it_can_be(show):
    page = show("#lab=preset:nothing,beta_kl:99,model:gan,alpha:8,seed:x,c:")
    assert page.evaluate(f"{LAB}.setting()") == {
        "preset": "c1",
        "config": {**SETTINGS["defaults"], "alpha": 8},
        "compare": {},
    }


def test_only_the_weights_of_the_model_are_shown(show):
    page = show()
    for model, shown, hidden in (
        ("vae", ["beta_rec", "beta_kl"], ["beta_neg", "margin", "alpha", "kernel"]),
        ("intro", ["beta_neg", "margin"], ["alpha", "c"]),
        ("soft_intro", ["beta_neg", "alpha", "gamma_r"], ["margin", "c"]),
        ("as_intro", ["alpha", "c", "bandwidth", "kernel", "pairing"], ["margin"]),
        ("wgan_gp", ["gradient_penalty", "critic_steps"], ["beta_rec", "alpha"]),
    ):
        page.locator("select[name=model]").select_option(model)
        for name in shown:
            assert page.locator(f"[name={name}]").is_visible(), name
        for name in hidden:
            assert not page.locator(f"[name={name}]").is_visible(), name


def test_the_tour_has_six_steps_by_keyboard(show):
    page = show(config=SHORT)
    page.locator("[data-name=tour]").press("Enter")
    seen = []
    for step in range(6):
        title = page.locator(".tour b").inner_text()
        assert title.startswith(f"{step + 1} of 6")
        seen.append(page.evaluate(f"{LAB}.setting().preset"))
        page.keyboard.press("Enter")  # the focus is on Next
    assert seen == ["vae", "vae", "introvae", "margin", "c1", "with-and-without"]
    assert not page.locator(".tour").is_visible()
    page.locator("[data-name=tour]").press("Enter")
    page.keyboard.press("Escape")
    assert not page.locator(".tour").is_visible()


# --- for everyone


def test_every_control_has_a_name_and_is_reached_by_keyboard(show):
    page = show()
    page.evaluate("document.querySelector('details').open = true")
    controls = page.locator(".lab :is(input, button, select, summary)")
    usable = controls.evaluate_all("all => all.map(e => e.checkVisibility() && !e.disabled)")
    reachable = [k for k, can in enumerate(usable) if can]
    assert len(reachable) > 18
    for k in reachable:
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "CANVAS":
            page.keyboard.press("Tab")
        assert controls.nth(k).evaluate("element => element === document.activeElement")
    unnamed = page.locator(".lab :is(input, select):not([aria-label])").evaluate_all(
        "all => all.filter(e => !e.closest('label')?.textContent.trim()).length"
    )
    assert unnamed == 0
    assert (
        page.locator(".lab :is(input, button, select):not([data-lm-suppress-shortcuts])").count()
        == 0
    )
    assert page.locator(".lab canvas:not([role=img][aria-label])").count() == 0


def test_the_state_is_said_in_words(show):
    page = show(config={**SHORT, "iterations": 30})
    play_to(page, 30)
    page.wait_for_function("document.querySelector('[role=status]').textContent.includes(' 30.')")
    words = page.get_by_role("status").inner_text()
    for part in ("S-IntroVAE", "of 8 modes", "KL of real points", "nats"):
        assert part in words


@pytest.mark.parametrize("compare", [{}, {"model": "intro"}])
def test_it_fits_a_telephone_where_tabs_choose_the_panel(show, compare):
    page = show(width=390, compare=compare, style=DARK)
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    for kind in ("latent", "curves", "scores", "data"):
        page.locator(f".tabs [data-name={kind}]").click()
        visible = page.locator(".panel:visible")
        assert visible.count() == 1 + bool(compare)
        assert kind in visible.first.get_attribute("class")
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    heights = page.locator(".lab input[type=range]:visible").evaluate_all(
        "all => all.map(e => e.getBoundingClientRect().height)"
    )
    assert min(heights) >= 24  # a finger's


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_moves_while_it_trains(show, width):
    page = show(width=width, config=SHORT)
    places = "all => all.map(e => JSON.stringify(e.getBoundingClientRect()))"
    parts = page.locator(".lab :is(canvas, input, button, select, table, p, .dials)")
    before = parts.evaluate_all(places)
    for _ in ("encoder", "decoder"):
        take_steps(page, 1)
        assert parts.evaluate_all(places) == before
    press(page, "play")
    page.wait_for_function(f"{FIRST}.i > 30")
    after = parts.evaluate_all(places)
    assert after == before


COUNT_PICTURES = """
window.pictures = 0;
const clear = CanvasRenderingContext2D.prototype.clearRect;
CanvasRenderingContext2D.prototype.clearRect = function (...given) {
  window.pictures += this.canvas.className === "data";
  return clear.apply(this, given);
};
"""


def test_where_less_motion_is_asked_for_the_picture_changes_once_a_second(show):
    page = show(motion="reduce", script=COUNT_PICTURES, config=SHORT)
    press(page, "play")
    page.wait_for_function(f"{FIRST}.i > 5")
    before = page.evaluate("window.pictures")
    page.wait_for_timeout(2100)
    assert page.evaluate("window.pictures") - before <= 3
    assert page.evaluate(f"{FIRST}.running")


def test_without_webassembly_a_sentence_says_so(show):
    page = show(script="delete window.WebAssembly", ready=False)
    page.locator(".error").wait_for()
    assert "no WebAssembly" in page.locator(".error").inner_text()
    assert page.locator("[data-name=play]").is_disabled()


def test_the_small_form_has_one_plane_and_shows_the_data_before_it_is_played(show):
    page = show(compact=True, ready=False, config=SHORT, width=390)
    page.wait_for_function(f"{LAB}.sides[0].data?.real", timeout=60_000)
    assert page.locator("canvas").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    press(page, "play")
    page.wait_for_function(f"{FIRST}?.i > 5", timeout=60_000)
    assert "of 8 modes" in page.locator(".lab .found").inner_text()
    page.locator("select[name=model]").select_option("vae")
    page.wait_for_function(f"{FIRST}.i < 5 || {LAB}.sides[0].waiting")


# --- in Python


def test_unknown_names_are_refused_in_one_line():
    with pytest.raises(TraitError, match="preset: 'colapse' is not known; did you mean collapse"):
        Lab(preset="colapse")
    with pytest.raises(TraitError, match="config: 'beta_ngr' is not known; did you mean beta_neg"):
        Lab(config={"beta_ngr": 1.0})
    with pytest.raises(TraitError, match="compare: 'modle'"):
        Lab(compare={"modle": "vae"})


def test_a_kernel_sends_the_library(monkeypatch):
    lab, sent = Lab(), []
    monkeypatch.setattr(lab, "send", lambda *given: sent.append(given))
    lab._handle_custom_msg({"want": "library"}, [])
    lab._handle_custom_msg({"other": 1}, [])
    assert sent == [({"library": library().name}, [library().read_bytes()])]


WITH_A_KERNEL = """async ([text, library, traits]) => {
    const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    const { default: widget } = await import(url);
    const listeners = [], bytes = new TextEncoder().encode(library);
    const model = {
        get: (name) => traits[name],
        set: (name, value) => { traits[name] = value; },
        on(event, listener) { if (event === "msg:custom") listeners.push(listener); },
        save_changes() { window.saved = true; },
        send({ want }) {
            for (const tell of listeners) tell({ [want]: "x.js" }, [new DataView(bytes.buffer)]);
        },
    };
    widget.render({ model, el: document.body });
    window.traits = traits;
}"""


def test_with_a_kernel_the_library_comes_as_a_message(show):
    """And what the reader sets goes to Python; the address is that of the notebook, and stays."""
    page = show(compact=True, ready=False)
    page.evaluate("document.querySelector('figure').remove()")
    traits = {"preset": "c1", "config": SHORT, "compare": {}, "compact": False}
    page.evaluate(WITH_A_KERNEL, [str(Lab._esm), library().read_text(), traits])
    page.wait_for_function(f"{FIRST}?.view?.samples", timeout=60_000)
    page.locator("input[name=beta_kl]").fill("1.5")
    assert page.evaluate("window.saved && window.traits.config.beta_kl") == 1.5
    press(page, "play")
    page.wait_for_function(f"{FIRST}.i > 2")
    assert not page.locator("[data-name=share]").is_visible()
    assert page.evaluate("location.hash") == ""


def test_every_setting_of_a_preset_is_a_parameter():
    for preset in SETTINGS["presets"].values():
        for values in (preset["config"], preset.get("compare", {})):
            assert set(values) <= set(SETTINGS["defaults"])
        assert preset["about"].endswith(".")
