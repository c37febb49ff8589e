"""The playground in a real browser, against `vllm-script playground`: what it asks and shows.

Screenshots go to the folder in $SCREENSHOTS, if there is one: look at them when the page changes.
"""

import base64
import io
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
from unittest import mock

import cv2
import numpy as np
import pytest
from PIL import Image

from .browsing import KEY, Line, Visit, expect, sync_api

SCENE = pathlib.Path(__file__).resolve().parents[3] / "benchmarks" / "scene.png"
CHROMIUMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, CHROMIUMS)), None)
FOLDER = os.environ.get("SCREENSHOTS") and pathlib.Path(os.environ["SCREENSHOTS"])
WIDTHS = {"phone": 375, "tablet": 820, "desktop": 1400}

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="needs a Chromium: apt-get install chromium-headless-shell, or chromium",
    ),
]


@pytest.fixture(scope="module")
def line(server_environment):
    """A line to the server that `vllm-script playground` starts, and stops when it is told to."""
    command = [sys.executable, "-m", "vllm_script.server.command", "playground", "--no-open"]
    command += ["--api-key", KEY, "--", "--limit-mm-per-prompt", '{"image": 2}']
    with mock.patch.dict(os.environ, server_environment, clear=True):
        playground = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        printed = playground.stdout.readline()
        port = re.search(r"the playground is at http://127.0.0.1:(\d+)/script;", printed)
        assert port, f"the command printed {printed!r}"
        line = Line(int(port.group(1)))
        yield line
        line.cut()
    finally:
        playground.terminate()
        assert playground.wait(60) == 143  # as a shell has it


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, line):
    """visit(fragment, ...) -> a Visit; all are closed, and none may have had an error."""
    visits = []

    def visit(fragment="", **context):
        visits.append(Visit(browser, line, fragment, **context))
        return visits[-1]

    yield visit
    for each in visits:
        each.close()


def pixels(figure):
    """What a figure's canvas shows, [height, width, 3]."""
    url = figure.locator("canvas").first.evaluate("canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))


def middles(shown, boxes, image):
    """Colours [patches, 3] of a drawing, at the picture's pixel in the middle of each patch."""
    boxes = np.array(boxes)
    scale = np.array([shown.shape[1] / image["width"], shown.shape[0] / image["height"]])
    pixel = np.floor((boxes[:, :2] + boxes[:, 2:]) / 2) + 0.5
    x, y = (pixel * scale).astype(int).T
    return shown[y, x].astype(float)


def test_a_picture_of_ones_own(visit, tmp_path):
    """Upload, both answers, and the patches: what is shown is what the server returned."""
    mine = visit()
    page = mine.page
    mine.type_key("a wrong one")
    expect(page.locator("#key-note")).to_contain_text("does not take this key")
    expect(page.get_by_label("API key")).to_be_focused()
    page.get_by_label("Question", exact=True).fill("typed before the key")
    mine.type_key()
    expect(page.locator("#model")).to_contain_text("script-demo")
    assert page.get_by_label("API key").input_value() == ""
    assert page.get_by_label("Question", exact=True).input_value() == "typed before the key"
    expect(page.locator("#ratio-shown")).to_have_text("as the server: 11 %")
    page.locator("#files").set_input_files(SCENE)
    mine.ask("What color is the cross?")
    mine.answered()
    assert (mine.text("pruned"), mine.text("whole")) == ("blue", "blue")
    image = mine.image()
    assert (image["kept"], image["visual_tokens"]) == (111, 1008)
    fewer = mine.number("whole", "tokens in the prompt") - mine.number(
        "pruned", "tokens in the prompt"
    )
    assert fewer == image["visual_tokens"] - image["kept"]
    expect(page.locator("#verdict")).to_contain_text(f"saves {fewer} of")
    expect(page.locator("#verdict")).to_contain_text("Both answers are the same")
    page.screenshot(path=(FOLDER or tmp_path) / "first.png", full_page=True)
    about = (
        "224×224, 1,008 visual tokens, 111 kept (keep ratio 0.11), mode script, relevance from clip"
    )
    expect(page.locator("#shown")).to_contain_text(about)

    picture, first = np.asarray(Image.open(SCENE).convert("RGB")), 0
    for view in image["views"]:
        boxes, patches = view["boxes"], range(first, first + len(view["boxes"]))
        kept = np.isin(patches, image["kept_patches"])
        figure = mine.figure(f"{kept.sum()} kept of {view['name']}")
        colors = middles(pixels(figure), boxes, image)
        expected = middles(picture, boxes, image)
        assert abs(colors[kept] - expected[kept]).max() <= 1
        assert abs(colors[~kept] - 0.22 * expected[~kept]).max() <= 2
        for place in (0, len(boxes) // 2, len(boxes) - 1):  # hover
            canvas = figure.locator("canvas")
            at = np.array(boxes[place]).reshape(2, 2).mean(0) / 224
            size = canvas.bounding_box()
            canvas.hover(position={"x": at[0] * size["width"], "y": at[1] * size["height"]})
            state = "kept" if kept[place] else "removed"
            value = image["patch_relevance"][first + place]
            told = f"Patch {first + place} of {view['name']}: {state}, relevance {value:.3f}."
            expect(page.locator("#patch")).to_have_text(told)
        first += len(boxes)
    assert first == len(image["patch_relevance"])
    finest = image["views"][-1]["boxes"]
    shown = middles(pixels(mine.figure("Relevance")), finest, image)
    values = np.array(image["patch_relevance"][-len(finest) :])
    assert shown[values.argmax()][1] > shown[values.argmin()][1] + 50  # yellow, not blue

    routes = {each.url.removeprefix(page.url.removesuffix("/script")) for each in mine.requests}
    routes = {route for route in routes if not route.startswith(("data:", "blob:", "/script"))}
    documented = {"/v1/models", "/v1/script/stats", "/v1/script/explain", "/v1/chat/completions"}
    assert routes == documented
    pruned, whole = mine.bodies("/v1/chat/completions")
    assert (pruned["script"], whole["script"]) == ({}, {"keep_ratio": 1})
    (explained,) = mine.bodies("/v1/script/explain")
    (_, pruned_end), (whole_start, _) = mine.times("/v1/chat/completions")
    ((_, explained_end),) = mine.times("/v1/script/explain")
    assert max(pruned_end, explained_end) <= whole_start  # its time to the first token is its own
    streaming = {"stream": True, "stream_options": {"include_usage": True}}
    assert pruned == explained | streaming
    stored = (
        "[localStorage.length, sessionStorage.length, document.cookie, document.body.innerHTML]"
    )
    *lengths, cookie, html = page.evaluate(stored)
    assert lengths == [0, 0] and cookie == "" and KEY not in html and KEY not in page.url


def test_the_slider_answers_when_it_rests(visit):
    mine = visit()
    mine.open()
    mine.ask("What color is the cross?")
    mine.answered()
    slider = mine.page.get_by_label("Keep ratio")
    slider.fill("0.2")
    expect(mine.page.locator("#ratio-shown")).to_have_text("20 %")
    assert len(mine.bodies("/v1/script/explain")) == 1  # not yet
    expect(mine.page.locator("#shown")).to_contain_text("(keep ratio 0.2)")
    mine.answered()
    ratios = [body["script"].get("keep_ratio") for body in mine.bodies("/v1/script/explain")]
    assert ratios == [None, 0.2]  # at first the server's own
    ratios = [body["script"].get("keep_ratio") for body in mine.bodies("/v1/chat/completions")]
    assert ratios == [None, 1, 0.2]  # the unpruned answer stays
    mine.page.get_by_label("Mode").select_option("uniform")
    expect(mine.page.locator("#shown")).to_contain_text("mode uniform, chosen without a text")
    assert mine.bodies("/v1/script/explain")[-1]["script"] == {"keep_ratio": 0.2, "mode": "uniform"}


def test_a_second_question(visit):
    mine = visit()
    mine.open()
    mine.ask("What color is the cross?")
    mine.answered()
    mine.ask("  ")
    mine.ask("Which digit is yellow?")
    expect(mine.page.locator("#asked li")).to_have_count(2)
    expect(mine.page.locator("#shown")).to_contain_text("Since the last question")
    mine.answered()
    assert (mine.text("pruned"), mine.text("whole")) == ("4", "4")
    then, now = (set(mine.image(index)["kept_patches"]) for index in (0, 1))
    assert now != then
    changed = f"{len(now & then)} stayed (white), {len(now - then)} are new (green), "
    expect(mine.page.locator("#shown")).to_contain_text(changed + f"{len(then - now)} left")
    first, second = mine.bodies("/v1/script/explain")
    roles = [message["role"] for message in second["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert second["messages"][0] == first["messages"][0]
    assert second["messages"][1]["content"].strip() == "blue"
    verdict = mine.page.locator("#verdict")
    expect(verdict).to_contain_text("The first question took")
    expect(verdict).to_contain_text("found in its caches: the encoder's features once")
    mine.page.get_by_label("Keep ratio").fill("0.2")
    expect(mine.page.locator("#shown")).to_contain_text("Since the last question and its settings")
    mine.answered()
    mine.page.get_by_role("button", name="Start over").click()
    sample = mine.page.get_by_label("Question", exact=True).get_attribute("placeholder")
    assert sample == "What color is the cross?"


def test_pictures_that_a_browser_sees_otherwise(visit, tmp_path):
    """What is transparent is white for the server; of what no browser reads it draws itself."""
    Image.new("RGBA", (224, 224), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (224, 224), "green").save(tmp_path / "green.tiff")
    mine = visit()
    mine.type_key()
    mine.page.locator("#files").set_input_files([tmp_path / "clear.png", tmp_path / "green.tiff"])
    mine.ask("What color is the cross?")
    mine.answered()
    clear, green = mine.explained[-1].json()["images"]
    view, kept = clear["views"][0], np.array(clear["kept_patches"])
    colors = middles(pixels(mine.figure(f"kept of {view['name']}").first), view["boxes"], clear)
    assert (colors[kept[kept < len(colors)]] == 255).all()
    sheet = mine.page.get_by_alt_text("as the server draws them")
    assert sheet.get_attribute("src") == f"data:image/png;base64,{green['png']}"


def test_what_goes_wrong(visit, line, tmp_path):
    mine = visit()
    mine.open()
    status = mine.page.locator("#status")
    large = tmp_path / "large.png"
    large.write_bytes(b"\0" * 32_000_001)
    text = tmp_path / "text.txt"
    text.write_text("no picture")
    mine.page.locator("#files").set_input_files([large, text])
    expect(status).to_contain_text("large.png has 32 MB; this page sends at most 32 MB")
    expect(status).to_contain_text("text.txt is neither a picture nor a video")
    mine.page.locator("#files").set_input_files([SCENE, SCENE])  # three: one more than the server's
    mine.ask("What color is the cross?")
    for pane in "pruned", "whole":
        expect(mine.page.locator(f"#{pane} .answer")).to_contain_text("At most 2 image(s)")
    expect(status).to_have_text(re.compile("The server refuses: At most 2 image"))
    for _ in range(2):
        mine.page.get_by_role("button", name="Remove scene.png").last.click()

    answers = iter([429, 429])  # as the server answers while it explains another picture

    def busy(route):
        status = next(answers, None)
        message = {"error": {"message": "another explanation is being made", "code": 429}}
        if status is None:
            route.continue_()
        else:
            route.fulfill(status=status, json=message, headers={"Retry-After": "1"})

    mine.page.route("**/v1/script/explain", busy)
    mine.ask("What color is the cross?")
    expect(status).to_contain_text("one explanation at a time, in order. Waiting for this one")
    mine.answered()
    mine.page.unroute("**/v1/script/explain")

    line.cut()
    mine.ask("Which digit is yellow?")
    expect(status).to_contain_text("The server does not answer")
    line.connect()
    mine.answered()
    assert mine.text("pruned") == "4"

    begun = 'data: {"choices": [{"delta": {"content": "I"}}]}\n\n'  # and no end
    answer = {"body": begun, "content_type": "text/event-stream"}
    mine.page.route("**/v1/chat/completions", lambda route: route.fulfill(**answer))
    asked = len(mine.bodies("/v1/chat/completions"))
    mine.ask("Where is the cross?")
    expect(status).to_have_text("The server went away twice. Press Ask to try once more.")
    assert len(mine.bodies("/v1/chat/completions")) == asked + 2
    mine.page.unroute("**/v1/chat/completions")
    mine.page.get_by_role("button", name="Ask").click()
    mine.answered()
    expect(mine.page.locator("#asked li").last).to_have_text("Where is the cross?")


def test_dropped_and_pasted(visit):
    mine = visit()
    mine.type_key()
    data = mine.page.evaluate_handle(
        """async () => {
            const blob = await (await fetch("script/scene.png")).blob();
            const data = new DataTransfer();
            data.items.add(new File([blob], "mine.png", { type: blob.type }));
            return data;
        }"""
    )
    mine.page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    expect(mine.page.get_by_role("img", name="mine.png")).to_have_count(1)
    paste = "data => dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))"
    mine.page.evaluate(paste, data)
    expect(mine.page.get_by_role("img", name="mine.png")).to_have_count(2)


def test_with_the_keyboard_alone(visit):
    mine = visit(color_scheme="dark")
    page, press = mine.page, mine.page.keyboard.press
    page.on("filechooser", lambda chooser: None)  # so that the browser hands it over in time
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(KEY)
    press("Enter")
    expect(page.locator("#files")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        press("Enter")
    chooser.value.set_files(SCENE)
    expect(page.get_by_label("Question", exact=True)).to_be_focused()
    page.keyboard.type("Which digit is yellow?")
    press("Enter")
    mine.answered()
    for _ in range(30):
        if page.evaluate("document.activeElement.tagName") == "CANVAS":
            break
        press("Tab")
    press("ArrowRight")
    expect(page.locator("#patch")).to_contain_text("Patch 0 of the whole picture in one tile")
    press("ArrowRight")
    press("ArrowDown")
    side = math.isqrt(len(mine.image()["views"][0]["boxes"]))
    told = f"Patch {side + 1} of the whole picture in one tile"
    expect(page.locator("#patch")).to_contain_text(told)
    unnamed = page.locator("main").evaluate(
        """main => [...main.querySelectorAll("img, canvas, input, select, textarea")].filter(each =>
        !each.alt && !each.ariaLabel && !each.labels?.length && each.className != "scale").length"""
    )
    assert unnamed == 0


def test_what_is_taken_away_works_elsewhere(visit, line, tmp_path, server_environment):
    mine = visit()
    mine.open()
    question = 'Say $HOME `id` \\ "it\'s": what color is the cross?'
    mine.page.get_by_label("Relevance from").select_option("embedding")
    mine.ask(question)
    mine.answered()
    shutil.copy(SCENE, tmp_path / "scene.png")
    copied = mine.page.get_by_label("Text that was copied")
    env = server_environment | {"OPENAI_API_KEY": KEY, "PYTHONSAFEPATH": "1"}
    run = {"cwd": tmp_path, "env": env, "capture_output": True, "text": True, "check": True}
    mine.page.get_by_role("button", name="Request as curl").click()
    command = copied.input_value()
    reply = json.loads(subprocess.run(["bash", "-c", command], **run).stdout)
    assert reply["choices"][0]["message"]["content"].strip() == mine.text("pruned")
    assert reply["usage"]["prompt_tokens"] == mine.number("pruned", "tokens in the prompt")
    mine.page.get_by_role("button", name="Request as Python").click()
    program = copied.input_value()
    printed = subprocess.run([sys.executable, "-c", program], **run).stdout
    assert printed.strip() == mine.text("pruned")
    assert KEY not in command + program

    mine.page.get_by_role("button", name="Link to these settings").click()
    url = copied.input_value()
    assert url.startswith(f"{line.url}/script#") and len(url) < 300
    other = visit(url.removeprefix(f"{line.url}/script"))
    other.type_key()
    expect(other.page.locator("#model")).to_contain_text("script-demo")
    assert other.page.get_by_label("Question", exact=True).input_value() == question
    assert other.page.get_by_label("Relevance from").input_value() == "embedding"
    assert other.page.get_by_label("Keep ratio").input_value() == "0.11"
    assert other.page.locator("#media li").count() == 0


def test_widths(visit, tmp_path):
    folder = FOLDER or tmp_path
    mine = visit()
    mine.open()
    mine.ask("What color is the cross?")
    mine.answered()
    mine.ask("Which digit is yellow?")
    expect(mine.page.locator("#shown")).to_contain_text("Since the last question")
    mine.answered()
    for name, width in WIDTHS.items():
        mine.page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            mine.page.emulate_media(color_scheme=scheme)
            mine.page.screenshot(path=folder / f"{name}-{scheme}.png", full_page=True)
        assert mine.page.evaluate("document.documentElement.scrollWidth") <= width
        left, right = (mine.page.locator(f"#{pane}").bounding_box() for pane in ("pruned", "whole"))
        mine.page.locator("#shown canvas").last.hover()
        expect(mine.page.locator("#patch")).to_be_in_viewport()
        beside = left["y"] == right["y"] and left["x"] < right["x"]
        assert beside == (width > 768)


@pytest.fixture(scope="module")
def film_line(vllm_server):
    """A line to a server of a model that takes videos."""
    flags = ("--keep-ratio", "0.3", "--script-explain", "--script-relevance", "embedding")
    with vllm_server("qwen2.5-vl", *flags) as server:
        line = Line(server.port)
        yield line
        line.cut()


@pytest.mark.slow  # a server of its own
def test_a_video(browser, film_line, tmp_path):
    frames = [np.full((84, 140, 3), 30 * number, np.uint8) for number in range(8)]
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 4, (140, 84)
    )
    for frame in frames:
        writer.write(frame)
    writer.release()
    mine = Visit(browser, film_line)
    expect(mine.page.locator("#model")).to_contain_text("tiny")
    mine.page.locator("#files").set_input_files(tmp_path / "clip.mp4")
    mine.ask("What happens?")
    mine.answered()
    (video,) = mine.explained[-1].json()["videos"]
    count, places = video["num_frames"], len(video["views"][0]["boxes"])
    assert count > 1 and len(video["patch_relevance"]) == count * places
    for number in range(count):
        own = [patch for patch in video["kept_patches"] if patch // places == number]
        expect(mine.figure(f"frame {number + 1}: {len(own)} kept")).to_have_count(1)
        expect(mine.figure(f"frame {number + 1}: relevance")).to_have_count(1)
    screen = mine.page.get_by_label("The kept patches, frame by frame")
    mine.page.get_by_role("button", name="Play").click()
    for number in range(count):
        expect(screen).to_have_attribute("data-frame", str(number))
    mine.page.get_by_role("button", name="Stop").click()
    mine.ask("Why?")
    expect(mine.page.locator("#shown")).to_contain_text("Since the last question")
    mine.answered()
    mine.page.screenshot(path=(FOLDER or tmp_path) / "video.png", full_page=True)
    mine.page.get_by_label("Keep ratio").fill("1")
    expect(mine.page.locator("#shown")).to_contain_text("visual tokens, left whole.")
    mine.answered()
    (video,) = mine.explained[-1].json()["videos"]
    assert video["left_whole"] and video["views"] == []  # all that was decoded is shown
    expect(mine.figure("left whole")).to_have_count(video["num_frames"])
    mine.close()
