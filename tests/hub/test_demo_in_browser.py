"""The page of a demo and of a Space in a headless browser: choices, clicks and images."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from hub_server import TOKEN
from PIL import Image

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.hub.space import write_space
from ddpm_hf.pipelines.image_grids import image_grid, sample_images
from ddpm_hf.recipes import with_recipe

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1180,1200"),
)
PATIENCE = 300  # seconds; the page does not take one

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver on the PATH"),
]

# The app of a Space where the package is not, on any free port.
WITHOUT_PACKAGE = "import runpy, sys; sys.modules['ddpm_hf'] = None; runpy.run_path('app.py', run_name='__main__')"


class Browser:
    """A page that is open, by the ids of its parts."""

    def __init__(self, driver, address):
        self.driver, self.address = driver, address
        driver.get(address)
        self.wait(lambda: "per image" in self.text("status"))  # it draws when it opens

    def part(self, name, inside=""):
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.CSS_SELECTOR, f"#{name} {inside}")

    def text(self, name):
        from selenium.common.exceptions import NoSuchElementException

        try:
            return self.part(name).text
        except NoSuchElementException:  # while it is being built
            return ""

    def put(self, name, value):
        from selenium.webdriver.common.keys import Keys

        self.part(name, "input[type=number]").send_keys(Keys.CONTROL, "a")
        self.part(name, "input[type=number]").send_keys(str(value), Keys.TAB)

    def pick(self, name, text):
        from selenium.webdriver.common.by import By

        self.part(name).find_element(By.XPATH, f".//label[normalize-space()='{text}']").click()

    def is_shown(self, name):
        from selenium.common.exceptions import NoSuchElementException

        try:
            return self.part(name).is_displayed()
        except NoSuchElementException:
            return False

    def example(self, text):
        from selenium.webdriver.common.by import By

        self.driver.find_element(By.XPATH, f"//button[normalize-space()='{text}']").click()

    def see(self, width, height, file):
        """Opens the page anew in a window, and writes a screenshot once it has drawn: (the picture, its places)."""
        window = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
        self.driver.get(self.address)
        self.wait(lambda: "per image" in self.text("status") and self.is_shown("draw"))
        self.driver.save_screenshot(str(file))
        places = {name: self.part(name).rect for name in ("image", "status", "draw")}
        return Image.open(file).convert("L"), places

    def choose(self, name, value):
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        def options():
            """The option in the open list, which closes when another part of the page is drawn anew."""
            self.part(name, "input").click()
            self.part(name, "input").send_keys(Keys.CONTROL, "a")
            self.part(name, "input").send_keys(value)
            return self.driver.find_elements(By.CSS_SELECTOR, f"li[role=option][aria-label='{value}']")

        found = []
        self.wait(lambda: found.extend(options()) or found)
        found[0].click()

    def click(self, name):
        self.part(name).click()

    def picture(self, name):
        with urllib.request.urlopen(self.part(name, "img").get_attribute("src")) as answer:
            return Image.open(io.BytesIO(answer.read())).convert("L")

    def wait(self, condition):
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.driver.page_source[-2000:]
            time.sleep(0.02)

    def requests(self):
        """The addresses of all that the page has asked for, from its own server and others."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent if params["documentURL"].startswith(self.address)]

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def driver(tmp_path):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'browser'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def served(tmp_path):
    """A function that runs Python which serves a page: its address."""
    processes = []

    def serve(*arguments, folder=tmp_path, **environment):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "hf")} | environment
        log = tmp_path / "served.log"
        with open(log, "w", encoding="utf-8") as said:
            command, streams = [sys.executable, "-u", *arguments], {"stdout": said, "stderr": subprocess.STDOUT}
            processes.append(subprocess.Popen(command, cwd=folder, env=environment, **streams))
        end = time.monotonic() + PATIENCE
        while True:
            found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text(encoding="utf-8"))
            if found is not None:
                return found[0]
            assert processes[-1].poll() is None and time.monotonic() < end, log.read_text(encoding="utf-8")
            time.sleep(0.2)

    yield serve
    for process in processes:
        process.terminate()
        process.wait()


@pytest.fixture
def pipeline(tiny_unet, tmp_path):
    pipeline = GaussianDiffusionPipeline(tiny_unet(num_classes=3), GaussianDiffusionScheduler())
    pipeline.save_pretrained(tmp_path / "model")
    return pipeline


@pytest.mark.parametrize("place", ["here", "space"])
def test_a_click_draws_what_the_pipeline_gives(driver, served, pipeline, hub, tmp_path, place):
    if place == "here":
        address = served("-m", "ddpm_hf.cli", "demo", str(tmp_path / "model"), "--device", "cpu")
    else:
        hub.add("someone/model", tmp_path / "model", private=True)
        write_space("someone/model", tmp_path / "space")
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN}
        address = served("-c", WITHOUT_PACKAGE, folder=tmp_path / "space", **environment)
    use(Browser(driver, address), pipeline)


def use(page, pipeline):
    page.choose("sampler", "ddim")
    page.wait(lambda: "the same noise gives the same image" in page.text("sampler"))
    page.choose("class", "2")
    page.pick("steps", "50")
    for name, value in (("guidance", 2), ("num_images", 2), ("seed", 5)):
        page.put(name, value)
    assert not page.is_shown("stop")
    page.click("draw")
    seen = set()
    page.wait(lambda: seen.add(page.text("status")) or "in 50 steps" in page.text("status"))
    assert any(re.fullmatch(r"step \d+ of 50", said) for said in seen), seen  # it was seen to form
    assert re.fullmatch(r"[\d.e-]+ s per image, in 50 steps", page.text("status"))
    # The result before this one is beside it.
    page.wait(lambda: "ddim-2m in 25 steps, seed 0 on the left, ddim in 50 steps, seed 5" in page.text("compared"))

    pipeline.register_modules(scheduler=with_recipe(pipeline.scheduler, "ddim"))
    options = {"num_inference_steps": 50, "class_labels": 2, "guidance_scale": 2.0}
    expected = image_grid(sample_images(pipeline, 2, seed=5, **options))
    # The same weights elsewhere in memory may round otherwise.
    assert np.abs(np.int16(page.picture("image")) - np.int16(expected)).max() <= 1
    assert page.picture("strip").size == (12 * 64, 2 * 64)

    page.pick("steps", "all 1000")
    page.click("draw")
    page.wait(lambda: "of 1000" in page.text("status"))
    assert page.is_shown("stop") and not page.is_shown("draw")
    page.click("stop")
    page.wait(lambda: page.is_shown("draw") and not page.is_shown("stop"))
    time.sleep(2)
    stopped = page.text("status")
    time.sleep(2)
    assert page.text("status") == stopped and "of 1000" in stopped
    page.pick("steps", "5")
    page.click("another")
    page.wait(lambda: "in 5 steps" in page.text("status"))
    assert page.part("seed", "input").get_attribute("value") != "5"
    assert np.abs(np.int16(page.picture("image")) - np.int16(expected)).max() > 1

    page.example("ddim in 10 steps")
    page.wait(lambda: "in 10 steps" in page.text("status"))

    asked = page.requests()
    assert len(asked) > 10 and all(url.startswith((page.address, "data:")) for url in asked)
    assert page.errors() == []


@pytest.mark.parametrize("width, height", [(1280, 900), (390, 844)])
def test_the_result_is_in_sight(driver, served, pipeline, tmp_path, width, height):
    address = served("-m", "ddpm_hf.cli", "demo", str(tmp_path / "model"), "--device", "cpu")
    seen, places = Browser(driver, address).see(width, height, tmp_path / f"{width}.png")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    for place in places.values():
        assert place["x"] >= 0 and place["x"] + place["width"] <= width and place["y"] + place["height"] <= height
    x, y, side = (round(places["image"][name]) for name in ("x", "y", "width"))
    pixels = np.asarray(seen.crop((x, y, x + side, y + round(places["image"]["height"]))))
    assert pixels.std() > 20  # images, and no empty frame
