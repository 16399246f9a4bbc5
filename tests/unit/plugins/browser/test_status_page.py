"""The page of the fleet, as Chromium shows it: real devices, a thousand made-up ones, some made to harm."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import fleet_page, fleet_status
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).resolve().parents[4]
DEVICES = Path(__file__).with_name("devices")  # what devices of the lab answered
HOSTILE = (
    "<script>window.hurt = 1</script>",
    "</script><script>window.hurt = 1</script>",
    '"><img src=x onerror="window.hurt = 1">',
    "' onmouseover='window.hurt = 1' x='",
    "<!--",
    "]]>",
    "&lt;b&gt;",
    "{{ lookup('pipe', 'id') }}{% for %}",
    "\u2028\u2029\u202e\ud800\x00\x1b[2J",
    "javascript:window.hurt=1",
    "x" * 1_048_576,
)


def answer(report: dict[str, Any]) -> dict[str, Any]:
    return {"stdout": json.dumps(report), "rc": 0}


def play(folder: Path, answers: dict[str, Any], *tasks: dict[str, Any], **variables: Any) -> tuple[int, str]:
    """Run tasks that write the page, for all devices at once as operators do: how it ended, what was said."""
    hosts = {device: {"ansible_connection": "local"} for device in answers}
    (folder / "answers.json").write_text(json.dumps(answers))
    (folder / "hosts.json").write_text(json.dumps({"all": {"vars": variables, "hosts": hosts}}))
    plays = [{"hosts": "all", "gather_facts": False, "tasks": [{"run_once": True, **task} for task in tasks]}]
    (folder / "play.yml").write_text(json.dumps(plays))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "--inventory=hosts.json", "play.yml"],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def page_at(path: str, **keywords: Any) -> dict[str, Any]:
    """Make a task that writes the page."""
    answers = "{{ lookup('file', 'answers.json') | from_json }}"
    return {"edge_litestream.appliance.status_page": {"answers": answers, "path": path}, **keywords}


def write(folder: Path, answers: dict[str, Any], **variables: Any) -> None:
    """Have the page written."""
    code, said = play(folder, answers, page_at("status.html"), **variables)
    assert (code, "changed=0" in said) == (0, True), said


def column(page: Page, number: int) -> list[str]:
    """Texts of a column's cells that are to be seen, from 1."""
    cells = page.locator(f"tbody tr:not([hidden]) > :nth-child({number})")
    return [text.strip() for text in cells.all_inner_texts()]


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page of its own, in which nothing may go wrong, and from which nothing may be asked."""
    with chromium.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.on(
            "request", lambda request: wrong.append(request.url) if "status.html" not in request.url else None
        )
        yield page
        assert wrong == []


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three devices of the lab, and one that was off."""
    folder = tmp_path_factory.mktemp("real")
    answers: dict[str, Any] = {
        path.stem: {"stdout": path.read_text(), "rc": 0} for path in sorted(DEVICES.glob("*.json"))
    }
    assert len(answers) == 3
    answers["edge04"] = {"unreachable": True, "msg": "ssh: connect to host edge04 port 22: No route to host"}
    write(folder, answers)
    return folder


def test_real_devices(page: Page, real: Path) -> None:
    page.goto((real / "status.html").as_uri())
    assert page.title() == "Edge fleet: 4 devices, 1 critical, 1 unreachable, 2 ok"
    assert column(page, 1) == ["edge02", "edge04", "edge01", "edge03"], "the worst first"
    assert column(page, 2) == ["critical", "unreachable", "ok", "ok"]
    assert "the certificate cannot be read" in column(page, 3)[0]
    assert "edge-rotator-force.service" in column(page, 3)[0], "and what to do"
    assert column(page, 3)[1:] == ["ssh: connect to host edge04 port 22: No route to host", "", ""]
    assert column(page, 5)[0] == "none"
    assert column(page, 6) == ["", "", "364 d", "364 d"]
    assert column(page, 7) == ["2.0.0", "", "2.0.0", "2.0.0"]
    assert column(page, 8) == ["0.5.17", "", "0.5.17", "0.5.17"]
    assert column(page, 10) == ["", "", "mode environment, not process", ""]
    assert page.locator("td.bad").all_inner_texts() == ["none"]
    data = json.loads((real / "status.json").read_text())
    assert data["counts"] == {"critical": 1, "unreachable": 1, "ok": 2}
    assert [one["device"] for one in data["devices"]] == ["edge01", "edge02", "edge03", "edge04"]
    for name in ("status.html", "status.json"):
        assert stat.S_IMODE((real / name).stat().st_mode) == 0o600


def test_sorted_by_every_column_with_the_keyboard(page: Page, real: Path) -> None:
    page.goto((real / "status.html").as_uri())
    heads = page.get_by_role("columnheader")
    assert heads.count() == 11
    for number in range(heads.count()):
        head = heads.nth(number)
        for way in ("ascending", "descending"):
            head.get_by_role("button").press("Enter")
            expect(head).to_have_attribute("aria-sort", way)
            others = [heads.nth(n).get_attribute("aria-sort") for n in range(11) if n != number]
            assert set(others) == {"none"}
            found = page.locator(f"tbody tr > :nth-child({number + 1})").evaluate_all(
                "cells => cells.map(cell => cell.dataset.sort ?? null)"
            )
            known = [each for each in found if each is not None]
            assert found == known + [None] * (len(found) - len(known)), "what is not known comes last"
            key = float if head.get_attribute("data-kind") == "number" else str
            assert known == sorted(known, key=key, reverse=way == "descending")


def test_filtered_by_words_and_by_state(page: Page, real: Path) -> None:
    page.goto((real / "status.html").as_uri())
    page.get_by_label("Filter").fill("ROUTE edge0")
    assert column(page, 1) == ["edge04"]
    expect(page.get_by_role("status")).to_have_text("1 of 4 devices")
    page.get_by_label("Filter").fill("")
    page.get_by_role("button", name="2 ok").click()
    assert column(page, 1) == ["edge01", "edge03"]
    page.get_by_role("button", name="1 critical").press("Space")
    assert column(page, 1) == ["edge02", "edge01", "edge03"]
    page.get_by_role("button", name="2 ok").click()
    page.get_by_role("button", name="1 critical").click()
    assert len(column(page, 1)) == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(page: Page, real: Path, scheme: Any) -> None:
    """As WCAG measures it: contrast of 4.5 at least."""
    page.emulate_media(color_scheme=scheme)
    page.goto((real / "status.html").as_uri())
    contrasts = page.evaluate(
        """() => {
          const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
            .map((part) => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4)
            .reduce((sum, part, n) => sum + part * [.2126, .7152, .0722][n], 0);
          const back = light(getComputedStyle(document.body).backgroundColor);
          return [...document.querySelectorAll("h1, td, th, small, .level, b, p")].map((one) => {
            const text = light(getComputedStyle(one).color);
            return (Math.max(text, back) + .05) / (Math.min(text, back) + .05);
          });
        }"""
    )
    assert min(contrasts) >= 4.5
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}[scheme]


@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_leaves_the_screen(page: Page, real: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto((real / "status.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the table scrolls, not the page"
    if width == 1280:
        assert page.evaluate("document.querySelector('#wide').scrollWidth") <= width
    # The device's name stays while the rest is scrolled.
    page.locator("#wide").evaluate("wide => wide.scrollLeft = 10000")
    assert 0 <= page.locator("tbody th").first.bounding_box()["x"] < 20  # type: ignore[index]


def test_a_device_made_to_harm(page: Page, tmp_path: Path) -> None:
    """Every text of its answer is hostile, and so are the messages about machines that were not reached."""
    report = json.loads((DEVICES / "edge02.json").read_text())
    evil = "".join(text for text in HOSTILE if len(text) < 1000)

    def spoil(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: spoil(value) for name, value in node.items()}
        return evil if isinstance(node, str) else node

    answers: dict[str, Any] = {
        f"edge{number:02}": answer({**spoil(report), "level": "ok", "thing": text, "problems": [text, evil]})
        for number, text in enumerate(HOSTILE)
    }
    answers["nan"] = {"stdout": '{"level": "ok", "clock_skew_s": NaN}'}
    answers["deep"] = {"stdout": "[" * 100_000}
    # A half of a pair is nothing that Ansible lets through.
    answers["gone"] = {"unreachable": True, "msg": evil.replace("\ud800", "")}
    answers["broken"] = {"stdout": "", "stderr": evil.replace("\ud800", "")}
    write(tmp_path, answers)
    assert (tmp_path / "status.html").stat().st_size < 100_000
    page.goto((tmp_path / "status.html").as_uri())
    page.wait_for_timeout(200)
    assert page.evaluate("window.hurt") is None
    assert page.locator("tbody tr").count() == len(answers)
    assert page.locator("script").count() == 1
    assert page.locator("img, iframe, object, embed, link, base, form, a").count() == 0
    shown = page.locator("tbody").inner_text()
    for text in HOSTILE[:7]:
        assert text in shown, "it is shown as it is"
    assert "lookup('pipe'" in shown
    attributes = page.locator("tbody *").evaluate_all(
        "all => [...new Set(all.flatMap(one => one.getAttributeNames()))]"
    )
    assert set(attributes) <= {"data-level", "data-sort", "scope", "class"}


def test_its_policy_refuses_any_other_script_and_every_request(
    page: Page, real: Path, chromium: Browser
) -> None:
    """What escaping would let through, were it broken one day."""
    text = (real / "status.html").read_text()
    policy = text.partition('Content-Security-Policy" content="')[2].partition('"')[0]
    assert policy.startswith("default-src &#39;none&#39;")
    assert "unsafe" not in policy
    broken = real / "broken.html"
    broken.write_text(
        text.replace(
            "<tbody>", '<tbody><script>window.hurt = 1</script><img src="x" onerror="window.hurt = 1">'
        )
    )
    with chromium.new_context() as context:
        harmed, refused = context.new_page(), []
        harmed.on("console", lambda message: refused.append(message.text))
        harmed.goto(broken.as_uri())
        harmed.wait_for_timeout(200)
        assert harmed.evaluate("window.hurt") is None
        assert len([text for text in refused if "Content Security Policy" in text]) >= 2


def made_up(count: int) -> dict[str, Any]:
    """Answers of a fleet that there is none of."""
    chance = random.Random(11)  # noqa: S311 - no secret
    report = json.loads((DEVICES / "edge02.json").read_text())
    answers = {}
    for number in range(count):
        level = chance.choices(["ok", "warning", "critical"], [90, 7, 3])[0]
        answers[f"edge-{number:04}"] = answer(
            report
            | {"thing": f"edge-{number:04}", "level": level, "last_error": None}
            | {"problems": [] if level == "ok" else ["the last attempt failed: dns"]}
            | {"credentials": {"remaining_s": chance.uniform(0, 3600)}}
            | {"certificate": {"remaining_s": chance.uniform(0, 3e7)}}
        )
    return answers


def test_a_thousand_devices_stay_quick(page: Page, tmp_path: Path) -> None:
    start = time.monotonic()
    text = fleet_page.render(fleet_status.fleet(made_up(1000)), "2026-11-28T14:00:00Z")
    (tmp_path / "status.html").write_text(text)
    wrote = time.monotonic() - start
    page.goto((tmp_path / "status.html").as_uri())
    times = []
    for number in range(11):
        times.append(
            page.evaluate(
                """(number) => {
                  const start = performance.now();
                  document.querySelectorAll("thead button")[number].click();
                  document.body.offsetHeight;
                  return performance.now() - start;
                }""",
                number,
            )
        )
    lives = page.locator("tbody tr > :nth-child(5)").evaluate_all(
        "cells => cells.map(cell => +cell.dataset.sort)"
    )
    assert len(lives) == 1000
    page.get_by_role("columnheader", name="Credentials").get_by_role("button").click()
    lives = page.locator("tbody tr > :nth-child(5)").evaluate_all(
        "cells => cells.map(cell => +cell.dataset.sort)"
    )
    assert lives == sorted(lives)
    page.get_by_label("Filter").fill("edge-0999")
    assert column(page, 1) == ["edge-0999"]
    print(f"1,000 devices: {wrote:.1f} s, {len(text) / 1e6:.2f} MB, sorted in {max(times):.0f} ms at most")


def test_what_the_inventory_wants_is_what_a_device_drifts_from(
    page: Page, real: Path, tmp_path: Path
) -> None:
    answers = {path.stem: {"stdout": path.read_text()} for path in DEVICES.glob("*.json")}
    variables = {
        "edge_rotator_delivery": "environment",
        "litestream_version": "0.5.{{ 9 + 9 }}",
        # Of no device's facts is anything known here.
        "edge_rotator_backend": "{{ ansible_facts['distribution_release'] }}",
    }
    write(tmp_path, answers, **variables)
    page.goto((tmp_path / "status.html").as_uri())
    drifts = dict(zip(column(page, 1), column(page, 10), strict=True))
    assert drifts["edge01"] == "litestream 0.5.17, not 0.5.18"
    assert drifts["edge03"].split("\n")[-1] == "mode process, not environment"


def test_where_it_is_written(tmp_path: Path) -> None:
    """A link is replaced and not followed, check mode writes nothing, and a bad path is named."""
    answers = {"edge01": {"stdout": (DEVICES / "edge01.json").read_text()}}
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "status.html").symlink_to("precious")
    code, said = play(
        tmp_path,
        answers,
        page_at("status.html"),
        page_at("checked.html", check_mode=True),
        page_at(f"{tmp_path}/none/status.html", ignore_errors=True),
        page_at("status.txt", ignore_errors=True),
        page_at("~/status.txt", ignore_errors=True),
    )
    assert code == 0, said
    assert f"status_page is '{tmp_path}/none/status.html', which cannot be written: No such file" in said
    assert f"status_page is '{tmp_path}/status.txt': give a file's name that ends in .html" in said
    assert f"status_page is '{Path.home()}/status.txt'" in said
    assert (tmp_path / "precious").read_text() == "kept"
    assert not (tmp_path / "status.html").is_symlink()
    made = {"answers.json", "hosts.json", "play.yml", "precious", "status.html", "status.json"}
    assert {path.name for path in tmp_path.iterdir()} == made, "and nothing that is half written"
