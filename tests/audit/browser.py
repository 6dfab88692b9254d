"""A real browser for pages: it opens a file and says what became of it."""

import re
import shutil
import subprocess
from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
SOFTWARE_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
NO_WEBGL = ("--disable-gpu", "--disable-3d-apis")


def open_page(page: str, folder: Path, options=NO_WEBGL, after: str = "") -> tuple[dict[str, str], str]:
    """Open a page from a file, and return the ``data`` attributes of its root and the text of its document.

    Args:
        page: as HTML; its script ends with ``start();``.
        folder: where the file and the profile of the browser go.
        options: of the browser.
        after: JavaScript to run when it has started.
    """
    counted = "root.dataset.resources = performance.getEntriesByType('resource').length;"
    started = f"start().then(async () => {{ {after}\n{counted} root.dataset.done = 1; }});"
    assert page.count("\nstart();\n") == 1
    (folder / "page.html").write_text(page.replace("\nstart();\n", f"\n{started}\n"), encoding="utf-8")
    fixed = ["--headless", "--no-sandbox", "--virtual-time-budget=15000", "--window-size=1500,1300", "--dump-dom"]
    command = [BROWSER, *fixed, *options, f"--user-data-dir={folder}/profile", f"file://{folder}/page.html"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=400, check=True).stdout
    return dict(re.findall(r'data-(\w+)="([^"]*)"', re.search(r"<html[^>]*>", dom)[0])), dom
