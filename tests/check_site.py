"""The built documentation, as a reader meets it: every page is opened in Chromium.

    mkdocs build --strict
    python tests/check_site.py site --screenshots shots

It fails for a page that the navigation does not lead to, an error in the console, a
request that fails or leaves the site, a link, an anchor or an image that is broken,
mathematics that is not typeset, code that cannot be copied, a page that is wider than a
narrow window, Python's internals in the reference, and a search that does not lead to
what people look for. Needs Debian's `chromium` (or one that `--chromium` names) and the
Python package `websocket-client`, of the extra `dev`. `--files` looks at the files only,
without a browser.
"""

import argparse
import contextlib
import functools as ft
import http.server
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from base64 import b64decode

from site_files import faults as faults_of_files, SEARCHES


# Where the site is served, as by many hosts: not at the top.
_PREFIX = "/eqx_taylor/"
_WIDE, _NARROW = (1440, 900), (390, 844)
# The longest screenshot, in pixels.
_TALLEST = 12_000
_PATIENCE = 60.0


class Page:
    """One tab of a browser, by the DevTools protocol."""

    def __init__(self, address: str):
        import websocket

        self.socket = websocket.create_connection(
            address, timeout=_PATIENCE, suppress_origin=True
        )
        self.numbers = itertools.count()
        self.events: list[dict] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        # The clipboard is for pages that the reader looks at.
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)

    def send(self, method: str, **params) -> dict:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        self.socket.send(json.dumps(message))
        while (answer := self._receive()).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _receive(self) -> dict:
        message = json.loads(self.socket.recv())
        if "method" in message:
            self.events.append(message)
        return message

    def run(self, script: str):
        """The value of a JavaScript expression, or of what it promises."""
        result = self.send(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            text = details.get("exception", {}).get("description", details["text"])
            raise RuntimeError(text)
        return result["result"].get("value")

    def resize(self, size: tuple[int, int]) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=size == _NARROW,
        )

    def darken(self, dark: bool) -> None:
        """From the next page on."""
        scheme = dict(name="prefers-color-scheme", value="dark" if dark else "light")
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        # Which one it was at first is remembered there.
        self.run("localStorage.clear()")

    def open(self, url: str) -> None:
        """Until it is loaded, typeset and at rest."""
        self.events.clear()
        self.send("Page.navigate", url=url)
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self._receive()
        self.run(_AT_REST)

    def screenshot(self, path: pathlib.Path) -> None:
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = dict(x=0, y=0, width=size["width"], scale=1)
        clip["height"] = min(size["height"], _TALLEST)
        image = self.send(
            "Page.captureScreenshot", captureBeyondViewport=True, clip=clip
        )
        path.write_bytes(b64decode(image["data"]))


# Images far down are loaded only when they come into sight.
_AT_REST = """(async () => {
    for (const image of document.images) image.loading = "eager";
    await Promise.all([...document.images].map(image => image.decode().catch(() => 0)));
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    await document.fonts.ready;
    await new Promise(done => setTimeout(done, 100));
})()"""

_LOOK = r"""(() => {
    const all = selector => [...document.querySelectorAll(selector)];
    const inText = node => !node.parentElement.closest(
        "pre, code, script, style, noscript, mjx-container, .arithmatex");
    const raw = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode())
        if (inText(node) && /\$|\\[(\[]|\\[a-z]{3,}|```|^ *!!! |\w--\w/m.test(node.data))
            raw.push(node.data.trim().slice(0, 80));
    return {
        title: document.title,
        ids: all("[id]").map(e => e.id).concat(all("a[name]").map(e => e.name)),
        links: all("a[href]").map(e => e.href),
        nav: all(".md-nav--primary a.md-nav__link[href]").map(e => e.href),
        images: all("article img").map(e => ({
            name: e.getAttribute("src"), alt: e.alt, ok: e.naturalWidth > 0})),
        formulas: all(".arithmatex").length,
        untypeset: all(".arithmatex")
            .filter(e => !e.querySelector("mjx-container mjx-math")
                || e.querySelector("mjx-merror, [data-mjx-error]"))
            .map(e => e.textContent.slice(0, 80)),
        raw,
        uncopied: all("article pre > code")
            .filter(e => !e.parentElement.querySelector("[data-md-type=copy]"))
            .map(e => e.textContent.slice(0, 80)),
    };
})()"""

# Of a console and of other code the first block: what is wanted of it (a console has
# prompts and results, which are not), and what its button copies.
_COPY = """(async () => {
    const found = [];
    const blocks = [...document.querySelectorAll("article pre > code")]
        .filter(e => e.checkVisibility());
    for (const kind of ["console", "program"]) {
        const block = blocks.find(
            e => (kind == "console") == (e.querySelector(".gp") !== null));
        if (!block) continue;
        const wanted = block.cloneNode(true);
        for (const e of wanted.querySelectorAll(".gp, .go")) e.remove();
        block.parentElement.querySelector("[data-md-type=copy]").click();
        await new Promise(done => setTimeout(done, 100));
        const copied = await navigator.clipboard.readText();
        const lines = text => text.split("\\n").map(x => x.trimEnd()).filter(x => x);
        found.push([kind, lines(wanted.textContent), lines(copied)]);
    }
    return found;
})()"""

_OVERFLOW = """(() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return null;
    return [...document.querySelectorAll("article *")]
        .filter(e => e.getBoundingClientRect().right > width + 1)
        .filter(e => !e.closest("pre, .md-typeset__scrollwrap, .md-code__content"))
        .slice(0, 3).map(e => e.tagName + ": " + e.textContent.trim().slice(0, 60));
})()"""

# The pages that a search leads to, in the order in which they are shown.
_SEARCH = """(async query => {
    const field = document.querySelector("input.md-search__input");
    field.focus();
    for (let i = 0; i < 100; i++) {
        field.value = query;
        field.dispatchEvent(new InputEvent("input", {bubbles: true}));
        field.dispatchEvent(new KeyboardEvent("keyup", {bubbles: true}));
        await new Promise(done => setTimeout(done, 100));
        const found = document.querySelectorAll(".md-search-result__item a");
        if (found.length) return [...found].map(e => e.href);
    }
    return [];
})"""
# So many pages are in sight.
_FIRST = 4


def _faults_of_loading(page: Page, origin: str) -> list[str]:
    faults, urls = [], {}
    for event in page.events:
        params = event["params"]
        match event["method"]:
            case "Network.requestWillBeSent":
                url = urls[params["requestId"]] = params["request"]["url"]
                if not url.startswith((origin, "data:", "blob:")):
                    faults.append(f"asks another host for {url}")
            case "Network.responseReceived" if params["response"]["status"] >= 400:
                response = params["response"]
                faults.append(f"{response['status']} for {response['url']}")
            case "Network.loadingFailed" if not params.get("canceled"):
                url = urls.get(params["requestId"])
                faults.append(f"{params['errorText']} for {url}")
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                what = details.get("exception", {}).get("description", details["text"])
                faults.append(f"exception: {what}")
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
                words = [
                    str(x.get("value", x.get("description"))) for x in params["args"]
                ]
                faults.append(f"console: {' '.join(words)}")
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                faults.append(f"console: {params['entry']['text']}")
    return faults


def _faults_of_page(seen: dict) -> list[str]:
    faults = [f"image {x['name']} is not there" for x in seen["images"] if not x["ok"]]
    faults += [
        f"image {x['name']} says nothing" for x in seen["images"] if not x["alt"]
    ]
    faults += [f"not typeset: {text}" for text in seen["untypeset"]]
    faults += [f"markup is left: {text}" for text in seen["raw"]]
    faults += [f"has no copy button: {text}" for text in seen["uncopied"]]
    return faults


def _faults_of_links(origin: str, pages: dict[str, dict], site: pathlib.Path):
    """Of all pages, once all of them are known: a pair of page and fault for each."""
    for url, seen in pages.items():
        for link in seen["links"]:
            target, anchor = urllib.parse.urldefrag(link)
            if not target.startswith(origin):
                continue
            path = urllib.parse.unquote(target.removeprefix(origin))
            if target in pages:
                if anchor and urllib.parse.unquote(anchor) not in pages[target]["ids"]:
                    yield url, f"no such anchor: {path}#{anchor}"
            elif not (site / path).is_file():
                yield url, f"leads nowhere: {link}"


def check(page: Page, origin: str, site: pathlib.Path, shots: pathlib.Path | None):
    """Pairs of a page and what is wrong with it."""
    files = sorted(site.rglob("*.html"))
    names = [path.relative_to(site).as_posix() for path in files]
    # It is shown at any address, and so only works where it was made for.
    names.remove("404.html")
    seen: dict[str, dict] = {}
    faults: list[tuple[str, str]] = []
    for name in names:
        url = origin + name.removesuffix("index.html")
        page.resize(_WIDE)
        page.open(url)
        found = _faults_of_loading(page, origin)
        seen[url] = page.run(_LOOK)
        found += _faults_of_page(seen[url])
        stem = name.removesuffix("/index.html").removesuffix(".html").replace("/", "-")
        if shots is not None:
            page.screenshot(shots / f"{stem}-wide.png")
        page.resize(_NARROW)
        page.run(_AT_REST)
        if (wide := page.run(_OVERFLOW)) is not None:
            found.append(f"is wider than a narrow window: {wide}")
        if shots is not None:
            page.screenshot(shots / f"{stem}-narrow.png")
        for kind, wanted, copied in page.run(_COPY):
            if wanted != copied:
                found.append(f"copies of a {kind} {copied}, and not {wanted}")
        if shots is not None:
            page.resize(_WIDE)
            page.darken(True)
            page.open(url)
            page.screenshot(shots / f"{stem}-dark.png")
            page.darken(False)
        faults += [(url, fault) for fault in found]
        formulas, links = seen[url]["formulas"], len(seen[url]["links"])
        print(
            f"{name}: {links} links, {len(seen[url]['images'])} images, {formulas} "
            f"formulas, {len(found)} faults",
            flush=True,
        )

    front = seen[origin]
    nav = {urllib.parse.urldefrag(link)[0] for link in front["nav"]}
    for url in seen.keys() - nav - {origin}:
        faults.append((url, "the navigation does not lead here"))
    for url in nav - seen.keys():
        faults.append((url, "is in the navigation, and does not exist"))
    faults += _faults_of_links(origin, seen, site)
    page.resize(_WIDE)
    for query, wanted in SEARCHES.items():
        page.open(origin)
        links = page.run(f"({_SEARCH})({json.dumps(query)})")
        found = [link.partition("#")[0].partition("?")[0] for link in links]
        first = list(dict.fromkeys(found))[:_FIRST]
        if origin + wanted not in first:
            faults.append((origin + wanted, f"`{query}` leads to {first} instead"))
    return faults


# -- a server and a browser


class _Handler(http.server.SimpleHTTPRequestHandler):
    def translate_path(self, path):
        if not path.startswith(_PREFIX):
            path = "/no such file"
        return super().translate_path("/" + path.removeprefix(_PREFIX))

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(site: pathlib.Path):
    """The address at which the site is."""
    handler = ft.partial(_Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}{_PREFIX}"
        server.shutdown()


@contextlib.contextmanager
def browser(program: str):
    """A page in it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, "--headless=new", "--remote-debugging-port=0"]
        command += [f"--user-data-dir={profile}", "--no-first-run", "--disable-gpu"]
        command += ["--disable-background-networking", "--hide-scrollbars"]
        command += ["--disable-dev-shm-usage"]  # In containers it is small.
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command += ["--no-sandbox"]  # It cannot be had by root, in a container.
        process = subprocess.Popen(
            [*command, "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port_file = pathlib.Path(profile) / "DevToolsActivePort"
            deadline = time.monotonic() + _PATIENCE
            while not (port_file.exists() and "\n" in port_file.read_text()):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{program} does not start")
                time.sleep(0.05)
            port = port_file.read_text().split()[0]
            new = f"http://127.0.0.1:{port}/json/new?about:blank"
            request = urllib.request.Request(new, method="PUT")
            with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
                page = Page(json.load(answer)["webSocketDebuggerUrl"])
            permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
            page.send("Browser.grantPermissions", permissions=permissions)
            yield page
            page.socket.close()
        finally:
            process.terminate()
            process.wait()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check a site that MkDocs has built.")
    parser.add_argument("site", type=pathlib.Path, help="the folder with index.html")
    parser.add_argument("--screenshots", type=pathlib.Path, help="a folder for them")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="program")
    parser.add_argument("--files", action="store_true", help="without a browser")
    options = parser.parse_args(argv)
    if not (options.site / "index.html").is_file():
        parser.error(f"{options.site} has no index.html: run `mkdocs build` first")
    if options.chromium is None and not options.files:
        parser.error("there is no `chromium` on the path: install it, or name one")
    if options.screenshots is not None:
        options.screenshots.mkdir(parents=True, exist_ok=True)
    site = options.site.resolve()
    faults = list(faults_of_files(site))
    if not options.files:
        with served(site) as origin, browser(options.chromium) as page:
            found = check(page, origin, site, options.screenshots)
        faults += [(url.removeprefix(origin), fault) for url, fault in found]
    for where, fault in faults:
        print(f"/{where}: {fault}", file=sys.stderr)
    print(f"{len(faults)} faults." if faults else "No faults.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
