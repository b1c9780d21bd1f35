"""The viewer serves the UI and one trace on loopback, to this host alone, and the timeline opens in a browser."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kstack.base.errors import TraceError
from kstack.trace.export import export
from kstack.trace.store import Trace
from kstack.trace.view import Viewer
from tests.support.chromium import Browser, browser
from tests.support.command import ROOT

SECRET = "not to be read"


@pytest.fixture(scope="module")
def viewer(laight: Trace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    folder = tmp_path_factory.mktemp("view")
    export(laight, "perfetto", folder / "laight #1.pftrace")
    (folder / "secret").write_text(SECRET)
    with Viewer(folder / "laight #1.pftrace") as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def ask(viewer: Viewer, path: str, method: str = "GET", host: str | None = None) -> tuple[int, dict[str, str], bytes]:
    """A request as it stands: paths are not tidied up."""
    connection = http.client.HTTPConnection("127.0.0.1", viewer.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{viewer.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_the_trace_and_the_ui_are_served(viewer: Viewer) -> None:
    status, _, page = ask(viewer, "/index.html")
    assert (status, b"Perfetto UI" in page) == (200, True)
    status, headers, data = ask(viewer, viewer.trace_path)
    assert (status, data) == (200, viewer.trace_file.read_bytes())
    assert headers["Content-Length"] == f"{len(data)}"
    status, headers, data = ask(viewer, viewer.trace_path, "HEAD")
    assert (status, data) == (200, b"")
    (bundle,) = [path for path in viewer.files if path.endswith("/frontend_bundle.js")]
    status, headers, data = ask(viewer, bundle)
    assert (status, headers["Content-Type"]) == (200, "text/javascript")
    assert len(data) > 1 << 20


@pytest.mark.parametrize(
    "path",
    [
        "/secret",
        "/trace/secret",
        "/trace/",
        "/trace/../secret",
        "/trace/%2e%2e/secret",
        "/../../../../../../etc/passwd",
        "/..%2f..%2f..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/%00",
        "/assets",
        "/../viewer.py",
        "/trace/laight",
    ],
)
def test_nothing_else_is(path: str, viewer: Viewer) -> None:
    status, _, data = ask(viewer, path)
    assert status == 404
    assert SECRET.encode() not in data
    assert b"root:" not in data


def test_a_page_of_another_site_gets_nothing(viewer: Viewer) -> None:
    for host in ("evil.example", f"evil.example:{viewer.server_port}", "127.0.0.1", "127.0.0.1:1"):
        status, _, data = ask(viewer, viewer.trace_path, host=host)
        assert (status, len(data) < 100) == (403, True)
    _, headers, _ = ask(viewer, viewer.trace_path, host=f"localhost:{viewer.server_port}")
    assert "Access-Control-Allow-Origin" not in headers
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_only_loopback_is_listened_on(viewer: Viewer) -> None:
    assert viewer.server_address[0] == "127.0.0.1"
    assert viewer.url == f"http://127.0.0.1:{viewer.server_port}/"


def test_without_the_ui_the_ways_out_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.pftrace").write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TraceError, match=r"pip install 'kstack\[view\]'; or drop .*t.pftrace on https://ui.perfetto"):
        Viewer(tmp_path / "t.pftrace")


def test_a_trace_or_a_port_that_cannot_be_used_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read: No such file"):
        Viewer(tmp_path / "missing")
    with pytest.raises(TraceError, match="cannot be read: Is a directory"):
        Viewer(tmp_path)
    (tmp_path / "t").write_bytes(b"")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TraceError, match=f"--port {port} cannot be used: .*in use"):
            Viewer(tmp_path / "t", port)
    with pytest.raises(TraceError, match="--port 70000 cannot be used"):
        Viewer(tmp_path / "t", 70000)


def test_it_says_where_it_is_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"trace")
    script = "import sys, pathlib; from kstack.trace.view import serve; serve(pathlib.Path(sys.argv[1]))"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "t")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().strip()
        host, port = url.removeprefix("http://").removesuffix("/").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request("GET", "/trace/t")
        assert connection.getresponse().read() == b"trace"
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


# --- in a browser

LOADED = "window.app && app.trace && !app.isLoadingTrace && document.querySelector('.pf-track__header, .pf-track')"
QUERY = """app.trace.engine.query(SQL).then((found) => {
  const rows = [];
  for (const row = found.iter(COLUMNS); row.valid(); row.next()) rows.push(Object.keys(COLUMNS).map((name) => {
    const value = row[name];
    return typeof value === "bigint" ? Number(value) : value;
  }));
  return rows;
})"""


def asked(page: Browser, sql: str, **columns: Any) -> list[list[Any]]:
    """Ask the trace processor that runs in the page; columns are `0` for numbers and `str` for text."""
    found: list[list[Any]] = page.run(QUERY.replace("SQL", json.dumps(sql)).replace("COLUMNS", json.dumps(columns)))
    return found


@pytest.fixture(scope="module")
def page(viewer: Viewer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        found.open(viewer.url)
        found.wait(LOADED)
        yield found


@pytest.mark.system("chromium")
def test_in_a_browser_the_tracks_are_there_and_the_trace_is_whole(page: Browser, laight: Trace) -> None:
    page.wait("document.body.innerText.includes('thread 3 on CPU')")
    shown = page.run("document.body.innerText")
    for name in ("CPUs", "CPU 0", "CPU 1", "threads", "thread 1", "thread 3", "frames in use"):
        assert name in shown
    wrong = asked(page, "select name, value from stats where severity = 'error' and value > 0", name="str", value=0)
    assert wrong == []
    assert asked(page, "select count(*) n from slice where category = 'finding'", n=0) == [[2]]
    assert asked(page, "select count(*) n from slice where dur < 0", n=0) == [[0]]
    first = asked(page, "select min(ts) t from slice", t=0)[0][0]
    assert first >= laight.meta.begun


@pytest.mark.system("chromium")
def test_in_a_browser_the_stale_read_is_selected_with_its_arrows(page: Browser, tmp_path: Path) -> None:
    ((number, time),) = asked(page, "select id, ts from slice where name = 'stale load'", id=0, ts=0)
    page.run(f"app.trace.selection.selectSqlEvent('slice', {number}, {{scrollToSelection: true}})")
    page.wait("app.trace.flows.connectedFlows.length >= 4")
    arrows = page.run("app.trace.flows.connectedFlows.map((flow) => [flow.begin.sliceName, flow.end.sliceName])")
    assert ["GiveBack", "stale load"] in arrows
    assert ["stale load", "stale-translation"] in arrows
    assert ["stale-translation", "wrong-data"] in arrows
    assert [end for begin, end in arrows if begin.startswith("shrink")] == ["GiveBack"]
    page.wait("document.body.innerText.includes('Preceding Flows')")
    shown = page.run("document.body.innerText")
    assert f"{time}" in shown, "virtual time as it is"
    for word in ("stale load", "GiveBack", "Following Flows", "0xffffc9"):
        assert word in shown
    picture = tmp_path / "stale.png"
    page.picture(picture)
    assert picture.stat().st_size > 20_000


@pytest.mark.system("chromium")
def test_in_a_browser_nothing_is_got_from_the_internet(page: Browser, viewer: Viewer) -> None:
    page.run("0")
    answered = [one["params"]["response"]["url"] for one in page.events if one["method"] == "Network.responseReceived"]
    assert any(url.endswith("frontend_bundle.js") for url in answered)
    assert [url for url in answered if not url.startswith((viewer.url, "data:", "blob:"))] == []
    assert [one for one in page.events if one["method"] == "Runtime.exceptionThrown"] == []
