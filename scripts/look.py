"""Look at HTML pages in Chromium: on a desktop and a telephone, light and dark.

    python scripts/look.py runs/words/20261127-120000-abcdef/report.html -o shots

One PNG of the whole page for each, and exit code 1 if a page is wider than its window, asks for anything from
elsewhere, or has an error. It needs `chromium` (or its path in CHROMIUM), and no network.
"""

import argparse
import asyncio
import base64
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

WIDTHS, SCHEMES, HEIGHT = (1280, 390), ("light", "dark"), 900
MOST_PIXELS = 12_000  # of height; a PNG beyond that is of no use
MEASURE = "JSON.stringify([document.documentElement.scrollWidth, document.documentElement.scrollHeight])"


class Tab:
    """One tab of the browser: commands of the DevTools protocol, and the errors that it told meanwhile."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.numbers, self.told = socket, itertools.count(1), list[str]()
        self.is_loaded = False

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.numbers)
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            answer = await self.socket.receive_json(timeout=60)
            if answer.get("id") == number:
                return answer.get("result", {})
            self._hear(answer)

    async def load(self, address: str) -> None:
        self.is_loaded = False
        await self.do("Page.navigate", url=address)
        while not self.is_loaded:
            self._hear(await self.socket.receive_json(timeout=60))

    def _hear(self, event: dict[str, Any]) -> None:
        method, about = event.get("method"), event.get("params", {})
        self.is_loaded |= method == "Page.loadEventFired"
        if method == "Network.requestWillBeSent" and not about["request"]["url"].startswith(
            ("file:", "data:")
        ):
            self.told.append(f"asks for {about['request']['url']}")
        if method == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.told.append(about["entry"]["text"])


@asynccontextmanager
async def opened() -> AsyncIterator[Tab]:
    """A tab of a browser of its own, which ends with it."""
    command = [os.environ.get("CHROMIUM", "chromium"), "--headless=new", "--no-sandbox", "--disable-gpu"]
    command += [
        "--disable-background-networking",
        "--no-first-run",
        "--remote-debugging-port=0",
        "about:blank",
    ]
    with tempfile.TemporaryDirectory(prefix="look-", ignore_cleanup_errors=True) as profile:
        command.insert(1, f"--user-data-dir={profile}")
        browser = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert browser.stderr is not None
            told = next(line for line in browser.stderr if "DevTools listening on" in line)
            port = re.findall(r":(\d+)/", told)[0]
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    pages = [each for each in await answer.json() if each["type"] == "page"]
                async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    yield Tab(socket)
        finally:
            browser.terminate()
            browser.wait()


async def look(paths: list[Path], folder: Path) -> list[str]:
    """Draw each page in each way; gives back what is wrong with them."""
    wrong = []
    async with opened() as tab:
        for domain in ("Page", "Network", "Log"):
            await tab.do(f"{domain}.enable")
        for path, width, scheme in itertools.product(paths, WIDTHS, SCHEMES):
            size = {"width": width, "deviceScaleFactor": 1, "mobile": width < 600}
            await tab.do("Emulation.setDeviceMetricsOverride", height=HEIGHT, **size)
            media = [{"name": "prefers-color-scheme", "value": scheme}]
            await tab.do("Emulation.setEmulatedMedia", features=media)
            await tab.load(path.absolute().as_uri())
            found = (await tab.do("Runtime.evaluate", expression=MEASURE))["result"]["value"]
            wide, high = map(int, found.strip("[]").split(","))
            clip = {"x": 0, "y": 0, "width": width, "height": min(high, MOST_PIXELS), "scale": 1}
            shot = await tab.do("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
            drawn = folder / f"{path.absolute().parent.name}-{path.stem}-{width}-{scheme}.png"
            drawn.write_bytes(base64.b64decode(shot["data"]))
            print(f"{drawn}: {wide} x {high}")
            if wide > width:
                wrong.append(f"{path} is {wide} px wide in a window of {width} px")
        wrong += tab.told
    return wrong


def main() -> int:
    """Look at the pages named; what is wrong goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("-o", "--out", default=Path("shots"), type=Path, help="folder for the PNGs")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    wrong = asyncio.run(look(asked.pages, asked.out))
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
