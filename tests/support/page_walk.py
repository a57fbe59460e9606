"""A person at the page: what is clicked and seen in each view."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import ConsoleMessage, Page, expect

from tests.support.server_process import ServerProcess
from tests.support.waiting import until

AXE = Path(__file__).parents[2] / "clients/web/node_modules/axe-core/axe.min.js"
RUN_SECONDS = 60


def freeze_run(server: ServerProcess, recalibration: str) -> int:
    """Stop the run when it has measured some layers, not all; return their number."""
    layers = f"{server.url}/v1/recalibrations/{recalibration}/layers"

    def measured() -> int:
        return len(httpx.get(layers).json()["layers"])

    until(lambda: measured() >= 3)
    for process in server.workers():
        process.suspend()
    return measured()


class Walk:
    """One page.

    Attributes:
        page: the page of Playwright.
        url: address of the server.
        faults: errors that the page reported, except failed requests, which tests provoke.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._note)

    def open(self, hash_: str = "") -> None:
        self.page.goto(f"{self.url}/{hash_}")
        expect(self.page.locator("h1, dialog h2").first).to_be_visible()

    def require_no_faults(self) -> None:
        assert "\n".join(self.faults) == ""

    def choose_model(self, path: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="Choose a model").click()
        chooser.value.set_files(path)

    def choose_folder(self, path: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="Choose a folder").first.click()
        chooser.value.set_files(path)

    def choose_files(self, *paths: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="Choose files").first.click()
        chooser.value.set_files(list(paths))

    def prepare(self, model: Path, data: Path) -> None:
        """Choose a model and data, and wait for the preview."""
        self.choose_model(model)
        expect(self.page.get_by_text("BatchNorm layers", exact=True)).to_be_visible()
        if data.is_dir():
            self.choose_folder(data)
        else:
            self.choose_files(data)
        expect(self.page.get_by_text("were checked.")).to_be_visible()

    def allow_mismatch(self) -> None:
        """Continue although the random weights of a test network match no preprocessing."""
        box = self.page.get_by_label("Continue anyway")
        start = self.button("Recalibrate")
        expect(box.or_(start.locator(":scope:enabled")).first).to_be_visible()
        if box.is_visible():
            box.check()

    def start(self, name: str) -> str:
        """Start the run; return the recalibration's id."""
        self.allow_mismatch()
        self.page.get_by_label("Name", exact=True).fill(name)
        self.button("Recalibrate").click()
        expect(self.page).to_have_url(re.compile("#/recalibrations/rc_"))
        return self.page.url.rpartition("/")[2]

    def await_result(self) -> None:
        heading = self.page.get_by_role("heading", name="Downloads")
        expect(heading).to_be_visible(timeout=1000 * RUN_SECONDS)

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def see(self, text: str) -> None:
        expect(self.page.get_by_text(text).first).to_be_visible()

    def sign_in(self, token: str) -> None:
        self.page.get_by_label("Token").fill(token)
        self.button("Sign in").click()

    def violations(self) -> list[str]:
        """Return what axe finds in the view: rules whose impact is serious or critical."""
        if not self.page.evaluate("() => 'axe' in window"):
            # Through the debugger, which the policy of the page does not restrict.
            session = self.page.context.new_cdp_session(self.page)
            session.send("Runtime.evaluate", {"expression": AXE.read_text("utf-8")})
            session.detach()
        found = self.page.evaluate("async () => (await axe.run()).violations")
        return [
            f"{one['id']}: {json.dumps([node['target'] for node in one['nodes']][:3])}"
            for one in found
            if one["impact"] in {"serious", "critical"}
        ]

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.faults.append(message.text)
