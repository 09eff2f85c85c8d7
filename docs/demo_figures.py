"""The picture of the demo page in docs/sharing.md; `figures.py` lists the model that it needs."""

import re
import shutil
import subprocess
import sys
import time


def page(file, with_classes, window=(1180, 1200)):
    """`ddpm-hf demo` after a click on Draw, in headless chromium with chromedriver and selenium."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", f"--window-size={window[0]},{window[1]}"):
        options.add_argument(flag)
    command = [sys.executable, "-u", "-m", "ddpm_hf.cli", "demo", str(with_classes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            address = next(
                found[0] for line in server.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line))
            )
            with webdriver.Chrome(options, Service(shutil.which("chromedriver"))) as driver:

                def status():
                    found = driver.find_elements(By.ID, "status")
                    return found[0].text if found else ""

                driver.get(address)
                for words in ("Press Draw", "per image"):
                    while words not in status():
                        time.sleep(0.2)
                    if words == "Press Draw":
                        driver.find_element(By.ID, "draw").click()
                driver.save_screenshot(str(file))
        finally:
            server.terminate()
