"""The pictures of the demo page in docs/sharing.md, of the model in the package."""

import re
import shutil
import subprocess
import sys
import time

WIDE, PHONE = (1280, 900), (390, 844)


def page(file, window=WIDE):
    """`ddpm-hf demo` once it has drawn, in headless chromium with chromedriver and selenium."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless", "--no-sandbox", "--disable-gpu"):
        options.add_argument(flag)
    command = [sys.executable, "-u", "-m", "ddpm_hf.cli", "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            address = next(
                found[0] for line in server.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line))
            )
            with webdriver.Chrome(options, Service(shutil.which("chromedriver"))) as driver:
                # The window of a browser has a least width; this is of the page alone.
                size = {"width": window[0], "height": window[1], "deviceScaleFactor": 1, "mobile": window is PHONE}
                driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                driver.get(address)
                while not any("per image" in part.text for part in driver.find_elements(By.ID, "status")):
                    time.sleep(0.2)
                time.sleep(1)  # Draw comes back in the place of Stop
                driver.save_screenshot(str(file))
        finally:
            server.terminate()


def phone(file):
    page(file, PHONE)
