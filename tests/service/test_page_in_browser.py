"""The page in a real browser: no text of anybody's becomes a script, keys are enough, and it fits every width."""

from itertools import pairwise
from urllib.parse import quote

import pytest
from served_page import chromium, event, served, signed_in
from small_registry import facts, registry_of, shipped

from evenhand.lifecycle.registry import Decision, Registry, add, promote
from evenhand.service.alarm import Notice
from evenhand.service.app import make_service
from evenhand.service.keys import make_key
from evenhand.service.lookout import TOPIC
from evenhand.service.place import open_database
from evenhand.service.production import Production
from evenhand.service.sequence import Tally

FIRE = "window.fired=1"
PAYLOADS = [
    f"<script>{FIRE}</script>",
    f"<ScRiPt>{FIRE}</sCrIpT>",
    f"<script >{FIRE}</script >",
    f"</title><script>{FIRE}</script>",
    f"</style><script>{FIRE}</script>",
    f"</textarea><script>{FIRE}</script>",
    f"</script><script>{FIRE}</script>",
    f"--><script>{FIRE}</script>",
    f"]]><script>{FIRE}</script>",
    f"</svg><script>{FIRE}</script>",
    f"<svg><script>{FIRE}</script></svg>",
    f"<svg onload={FIRE}>",
    f"<svg/onload={FIRE}>",
    f"<svg><animate onbegin={FIRE} attributeName=x dur=1s>",
    f"<svg><set onbegin={FIRE} attributename=x>",
    f"</text><img src=x onerror={FIRE}>",
    f"<img src=x onerror={FIRE}>",
    f"<img src=x onerror='{FIRE}'>",
    f"<IMG SRC=x ONERROR={FIRE}//",
    f'"><img src=x onerror={FIRE}>',
    f"'><img src=x onerror={FIRE}>",
    f"`><img src=x onerror={FIRE}>",
    f'" autofocus onfocus={FIRE} x="',
    f"' autofocus onfocus={FIRE} x='",
    f'" onmouseover={FIRE} x="',
    f"<input autofocus onfocus={FIRE}>",
    f"<details open ontoggle={FIRE}>x",
    f"<body onload={FIRE}>",
    f"<iframe src=javascript:top.{FIRE}>",
    f"<iframe srcdoc='<script>top.{FIRE}</script>'>",
    f"<object data=javascript:{FIRE}>",
    f"<embed src=javascript:{FIRE}>",
    f"<a href=javascript:{FIRE} autofocus>x</a>",
    f"javascript:{FIRE}",
    f"<video><source onerror={FIRE}></video>",
    f"<audio src=x onerror={FIRE}>",
    f"<marquee onstart={FIRE}>x</marquee>",
    f"<style>@keyframes x{{}}</style><p style=animation-name:x onanimationstart={FIRE}>",
    f"{{{{ ''.__class__ }}}}<img src=x onerror={FIRE}>",
    f"<math><mtext></p><img src=x onerror={FIRE}></math>",
]
EACH = 10


def hostile(service, tenant: str, payloads: list[str], at_ms: int) -> None:
    """Events whose every text is a payload; names hold 200 characters, so that some of them hold several."""
    long = "".join(payloads)
    for place, payload in enumerate(payloads):
        model = "".join(payloads[place % 3 :: 3])[:200]
        about = {"conversation": payload, "category": payload, "actor": payload}
        turns = [{"role": "user", "content": payload}]
        name = f"{payload} {place}"[:100]
        service.store.append(
            [
                event(tenant, name, "draft", model=model, text=payload, prompt=turns, **about),
                event(tenant, name, "takeover", reason=payload, **about),
                event(tenant, name, "edit", text=payload, sent=long, **about),
                event(tenant, name, "thumb", up=False, reason=long, **about),
            ],
            at_ms,
        )
    notice = Notice("opened", "takeover", payloads[0], Tally(1, 10), Tally(5, 10), 11.0, 10.0)
    for what in ("opened", "closed", "opened"):
        service.store.record(TOPIC, {"tenant": tenant, **notice.json(), "what": what}, at_ms)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def hostile_service(tmp_path_factory):
    """Four tenants with ten payloads each, and a model in production whose manifest and card are payloads."""
    folder = tmp_path_factory.mktemp("hostile")
    registry = registry_of(folder, "harbor-1")
    long = "".join(PAYLOADS)
    data = facts("x")["data"] | {
        "hash": long,
        "parents": {"origin": long, "sources": [{"name": long, "rows": long, "sha256": long}]},
    }
    place = shipped(folder / "odd", "odd", name=long, data=data, kinds=[long], results={"verdict": long})
    add(Registry(str(registry)), place, "odd", Decision("ann", "2026-01-01T00:00:00+00:00", ""))
    promote(Registry(str(registry)), "odd", None, Decision(long, "2026-01-02T00:00:00+00:00", long), long)
    database = open_database(str(folder / "events.db"))
    service = make_service(database, shipped=Production(str(registry)))
    keys = {}
    for number in range(len(PAYLOADS) // EACH):
        tenant = f"tenant-{number}"
        hostile(service, tenant, PAYLOADS[number * EACH : (number + 1) * EACH], service.clock.now_ms())
        keys[tenant] = make_key(database, tenant, "admin", 0)
    service.keyring.read()
    with served(service) as url:
        yield url, keys
    database.close()


def test_forty_payloads_in_every_field_become_text_by_escaping_alone(browser, hostile_service):
    """The page's policy, which would stop most of them, is switched off."""
    url, keys = hostile_service
    seen = ""
    for number, (tenant, key) in enumerate(keys.items()):
        context = browser.new_context(bypass_csp=True)
        words, said = read(signed_in(context, url, key), addresses(url, number))
        assert said == [], tenant
        seen += words
        context.close()
    missing = [payload for payload in PAYLOADS if "".join(payload.split()) not in "".join(seen.split())]
    assert missing == []


def test_the_policy_has_nothing_to_stop(browser, hostile_service):
    """A browser tells each violation on its console."""
    url, keys = hostile_service
    context = browser.new_context()
    assert read(signed_in(context, url, keys["tenant-0"]), addresses(url, 0))[1] == []
    context.close()


def addresses(url: str, number: int) -> list[str]:
    """The page of a tenant, one conversation, and one that there is not, whose name is payloads."""
    payloads = PAYLOADS[number * EACH : (number + 1) * EACH]
    names = ["".join(payloads)[:200], *(payloads[:1] if number == 0 else ())]
    return [url, *(f"{url}/conversation?name={quote(name, safe='')}" for name in names)]


def read(page, addresses: list[str]) -> tuple[str, list[str]]:
    """The text of some pages, and everything that fired, tried to, or became markup on them."""
    seen, said = "", []
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("console", lambda message: said.append(message.text))
    for address in addresses:
        page.goto(address)
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        page.mouse.move(200, 300)
        said += ["fired"] if page.evaluate("typeof window.fired") != "undefined" else []
        alien = "main script, main style, iframe, object, embed, img, video, audio, [onerror], [onload], [autofocus]"
        said += ["markup"] if page.evaluate("what => document.querySelectorAll(what).length", alien) else []
        seen += page.inner_text("body")
    return seen, [word for word in said if "404" not in word]


def test_the_payloads_would_fire_where_they_are_not_escaped(browser):
    """The control: raw, most of them do in this browser, and no test above could hide it."""
    page = browser.new_page()
    fired = 0
    for payload in PAYLOADS:
        page.evaluate("delete window.fired")
        page.set_content(
            f'<title>{payload}</title><textarea>{payload}</textarea><div>{payload}</div><input value="{payload}">'
        )
        page.wait_for_timeout(10)
        fired += page.evaluate("typeof window.fired") != "undefined"
    page.close()
    assert fired >= 20


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quiet")
    database = open_database(str(folder / "events.db"))
    service = make_service(database, shipped=Production(str(registry_of(folder, "harbor-1", "harbor-2"))))
    events = [event("default", str(i), "draft", model=f"harbor-{1 + i % 2}", category="x" * 120) for i in range(400)]
    events += [event("default", str(i), "takeover", actor="agent-1") for i in range(0, 400, 9)]
    service.store.append(events, service.clock.now_ms())
    key = make_key(database, "default", "admin", 0)
    service.keyring.read()
    with served(service) as url:
        yield url, key
    database.close()


def test_the_page_fits_from_400_to_1600_pixels_in_light_and_dark(browser, quiet):
    url, key = quiet
    context = browser.new_context()
    page = signed_in(context, url, key)
    for width in (400, 760, 1000, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    for scheme, paper in (("light", "rgb(247, 246, 242)"), ("dark", "rgb(19, 22, 26)")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    context.close()


def test_keys_alone_lead_from_the_login_to_a_conversation(browser, quiet):
    url, key = quiet
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#key:focus")
    page.keyboard.type(key)
    page.keyboard.press("Enter")
    page.wait_for_selector("#headline")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    for _ in range(60):
        page.keyboard.press("Tab")
        if "/conversation" in (page.evaluate("document.activeElement.getAttribute('href')") or ""):
            break
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    page.wait_for_selector(".passages li")
    context.close()


def test_a_screen_reader_finds_names_for_everything(browser, quiet):
    url, key = quiet
    context = browser.new_context()
    page = signed_in(context, url, key)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('input:not([type=hidden]), button, svg, a, nav')].filter(one =>
        !(one.getAttribute('aria-label') || one.textContent.trim() || (one.labels && one.labels.length))).length"""
    )
    assert unnamed == 0
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(one => Number(one.tagName[1]))")
    assert all(after - before <= 1 for before, after in pairwise(levels))
    context.close()


def test_the_page_keeps_itself_up_to_date_and_says_when_it_cannot(browser, quiet):
    url, key = quiet
    context = browser.new_context()
    page = context.new_page()
    page.clock.install()
    page.goto(url)
    page.fill("#key", key)
    page.keyboard.press("Enter")
    page.wait_for_selector("#headline")
    page.evaluate(
        "document.activeElement.blur(); document.querySelectorAll('details').forEach(one => one.open = false)"
    )
    page.evaluate("document.querySelector('main').dataset.old = 'yes'")
    page.clock.run_for(61_000)
    page.wait_for_selector("main:not([data-old])")
    page.route("**/*", lambda route: route.abort())
    page.clock.run_for(61_000)
    page.wait_for_selector("#status:not(:empty)")
    assert "not up to date" in page.inner_text("#status")
    context.close()
