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
        self.wait(lambda: "Press Draw" in self.text("status"))

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

    def choose(self, name, value):
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        self.part(name, "input").click()
        self.part(name, "input").send_keys(Keys.CONTROL, "a")
        self.part(name, "input").send_keys(value)
        self.driver.find_element(By.CSS_SELECTOR, f"li[role=option][aria-label='{value}']").click()

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
    page.choose("class", "2")
    for name, value in (("steps", 40), ("guidance", 2), ("num_images", 2), ("seed", 5)):
        page.put(name, value)
    page.click("draw")
    seen = set()
    page.wait(lambda: seen.add(page.text("status")) or "per image" in page.text("status"))
    assert any(re.fullmatch(r"step \d+ of 40", said) for said in seen), seen  # it was seen to form
    assert re.fullmatch(r"[\d.e-]+ s per image, in 40 steps", page.text("status"))

    pipeline.register_modules(scheduler=with_recipe(pipeline.scheduler, "ddim"))
    options = {"num_inference_steps": 40, "class_labels": 2, "guidance_scale": 2.0}
    expected = image_grid(sample_images(pipeline, 2, seed=5, **options))
    # The same weights elsewhere in memory may round otherwise.
    assert np.abs(np.int16(page.picture("image")) - np.int16(expected)).max() <= 1
    assert page.picture("strip").size == (12 * 64, 2 * 64)

    page.put("steps", 1000)
    page.click("draw")
    page.wait(lambda: "of 1000" in page.text("status"))
    page.click("stop")
    time.sleep(2)
    stopped = page.text("status")
    time.sleep(2)
    assert page.text("status") == stopped and "of 1000" in stopped
    page.put("steps", 3)
    page.click("another")
    page.wait(lambda: page.part("seed", "input").get_attribute("value") != "5")
    page.click("draw")
    page.wait(lambda: "in 3 steps" in page.text("status"))
    assert np.abs(np.int16(page.picture("image")) - np.int16(expected)).max() > 1

    asked = page.requests()
    assert len(asked) > 10 and all(url.startswith((page.address, "data:")) for url in asked)
    assert page.errors() == []
