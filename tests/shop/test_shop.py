import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest
from playwright.sync_api import Request, expect

from tests.gateways.processes import send, wait_until
from tests.shop.conftest import Stand, Visitor

Two = tuple[Visitor, Visitor]


def test_a_visitor_has_a_guest_from_the_first_page_and_keeps_it(visitors: Two) -> None:
    visitor, _ = visitors
    visitor.opens()
    first = jwt.decode(visitor.guest_token, options={"verify_signature": False})
    visitor.adds("Morning cup", times=2)
    then = jwt.decode(visitor.guest_token, options={"verify_signature": False})
    assert then["sub"] == first["sub"]
    assert (first["ver"], then["ver"]) == (1, 3)
    assert then["payload"] == {"cart": [{"sku": "morning-cup", "quantity": 2}]}
    assert visitor.cart == {"morning-cup": 2}


def test_the_cookie_is_out_of_reach_of_scripts_and_lives_as_long_as_browsers_grant(visitors: Two) -> None:
    visitor, _ = visitors
    visitor.opens()
    [cookie] = [each for each in visitor.page.context.cookies() if each["name"] == "guest"]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")
    assert visitor.page.evaluate("document.cookie") == ""
    now_s = visitor.page.evaluate("Date.now() / 1000")
    assert 399 * 86_400 < cookie["expires"] - now_s <= 400 * 86_400


def test_the_carts_of_two_browsers_come_together_at_login(visitors: Two) -> None:
    phone, laptop = visitors
    phone.adds("Supper bowl")
    phone.adds("Morning cup", times=2)
    phone.logs_in("Ada")
    assert "3 pieces" in phone.story
    assert phone.cart == {"supper-bowl": 1, "morning-cup": 2}

    laptop.remembers("Tall vase")
    laptop.adds("Tall vase")
    laptop.adds("Morning cup", times=9)
    laptop.shoots("shop-guest")
    assert laptop.cart == {"tall-vase": 1, "morning-cup": 9}
    laptop.shoots("shop-guest-cart")
    laptop.logs_in("Ada")
    assert "9 pieces and 1 favourite" in laptop.story  # of the ten that it brought, one found no room
    assert "Morning cup: you had 2 and brought 9; 10 is the most in one order." in laptop.story
    laptop.shoots("shop-merged")
    assert laptop.cart == {"supper-bowl": 1, "morning-cup": 10, "tall-vase": 1}
    assert phone.cart == laptop.cart


def test_a_login_sent_twice_doubles_nothing(visitors: Two) -> None:
    visitor, _ = visitors
    visitor.adds("Side plate", times=3)
    old = visitor.guest_token
    visitor.logs_in("Grace")
    visitor.page.context.add_cookies([{"name": "guest", "value": old, "url": visitor.shop}])
    visitor.logs_in("Grace")
    assert "nothing was counted twice" in visitor.story
    assert visitor.cart == {"side-plate": 3}


def test_after_logging_out_a_visitor_goes_on_as_a_new_guest_and_merges_in_full_again(visitors: Two) -> None:
    visitor, _ = visitors
    visitor.adds("Tea pot")
    before = jwt.decode(visitor.guest_token, options={"verify_signature": False})
    visitor.logs_in("Ada")
    visitor.logs_out()
    assert visitor.cart == {}
    after = jwt.decode(visitor.guest_token, options={"verify_signature": False})
    assert after["sub"] != before["sub"]
    assert after["payload"] == {}
    visitor.adds("Tea pot")
    visitor.logs_in("Ada")
    assert "1 piece" in visitor.story
    assert visitor.cart == {"tea-pot": 2}


def test_a_customer_gets_in_whatever_the_guest_cookie_holds(visitors: Two) -> None:
    visitor, _ = visitors
    visitor.opens()
    visitor.page.context.add_cookies([{"name": "guest", "value": "e30.e30.bm90IG1pbmU", "url": visitor.shop}])
    visitor.logs_in("Grace")
    assert "Welcome back, Grace." in visitor.story


def test_another_site_cannot_post_into_the_shop(visitors: Two) -> None:
    visitor, _ = visitors
    visitor.opens()
    answer = visitor.page.request.post(f"{visitor.shop}/cart/tea-pot", headers={"Origin": "http://evil.example"})
    assert answer.status == 403
    assert visitor.cart == {}


def test_a_login_that_adds_nothing_says_why(visitors: Two) -> None:
    phone, laptop = visitors
    phone.remembers("Tall vase")
    phone.adds("Tea pot", times=10)
    phone.logs_in("Ada")
    laptop.adds("Tea pot")
    laptop.logs_in("Ada")
    assert laptop.story.split("\n\n") == [
        "Welcome back, Ada.",
        "Tea pot: you had 10 and brought 1; 10 is the most in one order.",
    ]
    laptop.logs_out()
    laptop.remembers("Tall vase")
    laptop.logs_in("Ada")
    assert laptop.story == "Welcome back, Ada. All that you picked as a guest was with you already."


def test_what_was_added_is_said_once_and_beside_the_piece(visitors: Two) -> None:
    visitor, _ = visitors
    visitor.adds("Morning cup")
    visitor.adds("Tea pot", times=2)
    card = visitor.page.locator("#tea-pot")
    expect(card.get_by_role("status")).to_be_in_viewport()
    expect(card.get_by_role("button", name="Add to cart: Tea pot")).to_be_in_viewport()
    assert visitor.notice == "Tea pot added · 3 in your cart"
    assert visitor.page.title().startswith("Tea pot added")
    visitor.page.reload()
    assert visitor.page.get_by_role("status").count() == 0


def test_the_eleventh_of_a_piece_is_refused_with_a_word(visitors: Two) -> None:
    visitor, _ = visitors
    visitor.adds("Morning cup", times=11)
    assert visitor.notice == "10 is the most in one order"
    assert visitor.cart == {"morning-cup": 10}
    expect(visitor.page.get_by_role("button", name="One Morning cup more")).to_be_disabled()


def test_the_cart_says_what_became_fewer_and_what_is_gone(visitors: Two) -> None:
    visitor, _ = visitors
    visitor.adds("Tea pot", times=2)
    visitor.opens("/cart")
    for said in ("One Tea pot less · 1 in your cart", "Tea pot taken out · 0 in your cart"):
        visitor.page.get_by_role("button", name="One Tea pot less").click()
        expect(visitor.page.get_by_role("status")).to_have_text(said)
    assert visitor.cart == {}


def test_an_order_is_confirmed_and_says_that_it_is_none(visitors: Two) -> None:
    visitor, _ = visitors
    visitor.adds("Tea pot")
    visitor.logs_in("Grace")
    visitor.page.get_by_role("button", name="Check out").click()
    assert "nothing was charged" in visitor.notice
    assert visitor.cart == {}


def test_a_guest_is_sent_to_log_in_before_an_order(visitors: Two) -> None:
    visitor, _ = visitors
    visitor.adds("Tea pot")
    answer = visitor.page.request.post(f"{visitor.shop}/checkout", headers={"Origin": visitor.shop})
    assert answer.url == f"{visitor.shop}/login"
    assert visitor.cart == {"tea-pot": 1}


@pytest.mark.parametrize("width", [320, 360, 390, 640, 768])
def test_no_page_scrolls_sideways(visitors: Two, width: int) -> None:
    visitor, _ = visitors
    visitor.page.set_viewport_size({"width": width, "height": 844})
    too_wide = [where for where in every_page(visitor) if spills(visitor)]
    assert too_wide == []


def spills(visitor: Visitor) -> bool:
    """Whether the page is wider than its window, or anything of it reaches out of the window."""
    return bool(
        visitor.page.evaluate(
            """() => document.documentElement.scrollWidth > innerWidth || [...document.querySelectorAll("main *")]
                .some(each => each.checkVisibility() && !each.closest("thead, svg")
                    && each.getBoundingClientRect().right > innerWidth)"""
        )
    )


def every_page(visitor: Visitor) -> Iterator[str]:
    """Shows the shop's pages one after the other, each at its fullest, and names them."""
    visitor.opens()
    yield "shelf"
    visitor.opens("/cart")
    yield "empty cart"
    visitor.adds("Supper bowl")
    visitor.adds("Morning cup", times=11)
    yield "shelf that says something"
    visitor.opens("/cart")
    yield "cart"
    visitor.opens("/login")
    yield "login"
    visitor.logs_in("Grace", password="slip")
    yield "failed login"
    visitor.logs_in("Grace")
    yield "story"
    visitor.opens()
    yield "shelf of a customer"
    visitor.opens("/no-such-page")
    yield "no such page"


def test_no_page_gives_the_browser_a_reason_to_complain(visitors: Two) -> None:
    visitor, _ = visitors
    complaints: list[str] = []
    visitor.page.on("console", lambda message: complaints.append(f"{message.text} {message.location.get('url')}"))
    visitor.page.on("pageerror", lambda error: complaints.append(str(error)))
    for _ in every_page(visitor):
        assert visitor.page.evaluate(
            """() => new Promise(done => {
                const icon = new Image()
                icon.onload = () => done(true)
                icon.onerror = () => done(false)
                icon.src = document.querySelector("link[rel=icon]").href
            })"""
        )
    # The browser itself notes the two pages whose status is an error, and nothing else.
    assert [each.rsplit("/", 1)[-1] for each in complaints] == ["login", "no-such-page"], complaints


def test_what_is_not_there_is_reported_by_a_page_of_the_shop(visitors: Two) -> None:
    visitor, _ = visitors
    visitor.adds("Tea pot")
    answer = visitor.opens("/no-such-page")
    assert answer is not None
    assert answer.status == 404
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert visitor.page.locator("#count").inner_text() == "1"
    visitor.page.get_by_role("link", name="Back to the shelf").click()
    assert visitor.page.url == f"{visitor.shop}/"
    answer = visitor.opens("/cart/tea-pot")
    assert answer is not None
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_a_wrong_password_is_reported_with_what_helps(visitors: Two) -> None:
    visitor, _ = visitors
    visitor.opens("/login")
    with visitor.page.expect_response(f"{visitor.shop}/login") as answered:
        visitor.page.get_by_label("Who").select_option("Grace")
        visitor.page.get_by_label("Password").fill("slip")
        visitor.page.get_by_role("button", name="Log in").click()
    assert answered.value.status == 422
    helps = "This is not Grace\N{RIGHT SINGLE QUOTATION MARK}s password. Type clay, in small letters."
    expect(visitor.page.get_by_role("alert")).to_have_text(helps)
    expect(visitor.page.get_by_label("Password")).to_have_accessible_description(helps)
    expect(visitor.page.get_by_label("Password")).to_be_focused()
    visitor.page.get_by_label("Password").fill("clay")
    visitor.page.get_by_role("button", name="Log in").click()
    assert "Welcome back, Grace." in visitor.story


def test_who_hears_the_page_knows_every_button_and_where_they_are(visitors: Two) -> None:
    visitor, _ = visitors
    visitor.remembers("Tall vase")
    buttons = visitor.page.locator("main button")
    names = [button.get_attribute("aria-label") for button in buttons.all()]
    assert len(set(names)) == len(names) == 12
    expect(visitor.page.get_by_role("button", name="Remember Tall vase", pressed=True)).to_be_visible()
    assert visitor.page.locator("button[aria-pressed=false]").count() == 5
    shop = visitor.page.get_by_role("navigation", name="Shop")
    expect(shop.locator("[aria-current=page]")).to_have_text("Shelf")
    visitor.adds("Tea pot")
    visitor.opens("/cart")
    expect(shop.locator("[aria-current=page]")).to_have_text("Cart 1")
    for width in (1120, 390):
        visitor.page.set_viewport_size({"width": width, "height": 844})
        assert visitor.page.get_by_role("columnheader").all_inner_texts() == ["Piece", "Quantity", "Price"]
        expect(visitor.page.get_by_role("rowheader", name="Tea pot")).to_be_visible()
        assert visitor.page.get_by_role("row").count() == 3


def test_in_an_outage_nothing_is_lost_and_the_shop_says_so(customer_of_the_stand: Visitor, stand: Stand) -> None:
    visitor = customer_of_the_stand
    visitor.adds("Tea pot", times=2)
    stand.closes("service")

    visitor.adds("Tea pot")
    expect(visitor.page.locator("#tea-pot").get_by_role("alert")).to_be_in_viewport()
    assert visitor.notice == "Not saved. Your picks are safe; please try again in a minute."
    visitor.remembers("Tall vase")
    assert visitor.notice.startswith("Not saved.")
    assert visitor.cart == {"tea-pot": 2}
    visitor.logs_in("Ada")
    assert "(2 pieces) are safe in this browser and join you as soon as that works" in visitor.story
    assert "still holds what was picked" in visitor.page.locator("footer").inner_text()
    visitor.adds("Side plate")  # a customer's cart needs no service
    assert visitor.cart == {"side-plate": 1}

    stand.opens("service")
    wait_until(lambda: visitor.cart == {"side-plate": 1, "tea-pot": 2}, what="the picks have come along")
    assert visitor.story == "Welcome back, Ada. 2 pieces that you picked as a guest came with you."


def test_picks_that_cannot_be_read_are_not_written_over(customer_of_the_stand: Visitor, stand: Stand) -> None:
    visitor = customer_of_the_stand
    visitor.adds("Tea pot", times=2)
    token = visitor.guest_token
    stand.closes("service")
    stand.closes("shop")
    stand.opens("shop")  # it knows no keys now

    visitor.opens()
    assert "cannot be read just now" in visitor.page.locator("#unread").inner_text()
    visitor.adds("Side plate")
    assert visitor.notice.startswith("Not saved.")
    visitor.logs_in("Ada")
    assert "your picks are safe in this browser and join you as soon as that works" in visitor.story
    assert visitor.guest_token == token

    stand.opens("service")
    wait_until(lambda: visitor.cart == {"tea-pot": 2}, what="the picks are read again, and have come along")


def test_at_log_out_the_picks_are_forgotten_even_in_an_outage(customer_of_the_stand: Visitor, stand: Stand) -> None:
    """Else the next person at the computer gets them."""
    visitor = customer_of_the_stand
    visitor.adds("Tea pot")
    stand.closes("service")
    visitor.logs_in("Ada")
    visitor.logs_out()
    assert [each for each in visitor.page.context.cookies() if each["name"] == "guest"] == []
    assert visitor.cart == {}


def test_three_devices_that_log_in_at_once_lose_no_pick(stand: Stand) -> None:
    port = int(stand.address("shop").rpartition(":")[2])
    form = [("Origin", stand.address("shop")), ("Content-Type", "application/x-www-form-urlencoded")]

    def post(path: str, body: str, cookies: str = "") -> list[str]:
        answer = send(port, path, method="POST", headers=[*form, ("Cookie", cookies)], body=body.encode())
        assert answer.status == 303
        return [line.partition(";")[0] for line in answer.all("Set-Cookie")]

    def picked(sku: str) -> str:
        [guest] = [cookie for cookie in post(f"/cart/{sku}", "by=1") if cookie.startswith("guest=")]
        return guest

    devices = [picked(sku) for sku in ("tea-pot", "side-plate", "tall-vase")]
    with ThreadPoolExecutor(3) as pool:
        logins = list(pool.map(lambda guest: post("/login", "name=Ada&password=clay", guest), devices))
    [session] = [cookie for cookie in logins[0] if cookie.startswith("shop_session=")]
    cart = send(port, "/cart", headers=[("Cookie", session)]).body.decode()
    assert sorted(re.findall('data-sku="([^"]+)"', cart)) == ["side-plate", "tall-vase", "tea-pot"]


def test_the_demo_prints_its_welcome_and_no_warning(shop: str, tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    wait_until(lambda: "Ctrl-C closes" in log.read_text(), what="the welcome is printed")
    first, *others = filter(None, log.read_text().splitlines())
    assert first.strip().startswith(f"The shop is open at {shop} ")
    assert len(others) == 2


def click_at_once(clicks: list[tuple[Visitor, str]]) -> list[Request]:
    """Clicks a button in each tab; one word reaches all tabs, so that none waits for the response to another.

    Returns the requests that came of it.
    """
    posted = []
    with contextlib.ExitStack() as under_way:
        for tab, button in clicks:
            tab.page.get_by_role("button", name=button).evaluate(
                "button => { new BroadcastChannel('tabs').onmessage = () => button.click() }"
            )
            request = tab.page.expect_request(lambda request: request.method == "POST")
            posted.append(under_way.enter_context(request))
            under_way.enter_context(tab.page.expect_navigation())
        clicks[0][0].page.evaluate("new BroadcastChannel('tabs').postMessage('click')")
    return [each.value for each in posted]


def cookies_of(request: Request) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in request.all_headers()["cookie"].split("; "))


def three_tabs(visitor: Visitor) -> list[Visitor]:
    tabs = [visitor, *(Visitor(visitor.page.context.new_page(), visitor.shop) for _ in range(2))]
    for tab in tabs:
        tab.opens()
    return tabs


def test_twenty_quick_clicks_in_three_tabs_are_all_in_the_cart(visitors: Two) -> None:
    visitor, _ = visitors
    tabs = three_tabs(visitor)
    requests = []
    for name in ("Morning cup", "Supper bowl", "Side plate") * 2:
        requests += click_at_once([(tab, f"Add to cart: {name}") for tab in tabs])
    requests += click_at_once([(tab, "Add to cart: Morning cup") for tab in tabs[:2]])

    assert visitor.cart == {"morning-cup": 8, "supper-bowl": 6, "side-plate": 6}
    assert len(requests) == 20
    assert len({cookies_of(request)["guest"] for request in requests}) < 20  # some knew nothing of the one before


def test_a_login_among_quick_clicks_loses_none_and_doubles_none(visitors: Two) -> None:
    """Excepted what a tab that knows nothing of the login changes after it: that may be lost."""
    visitor, _ = visitors
    tabs = three_tabs(visitor)
    click_at_once([(tab, "Add to cart: Morning cup") for tab in tabs])
    tabs[0].opens("/login")
    tabs[0].page.get_by_label("Who").select_option("Ada")
    tabs[0].page.get_by_label("Password").fill("clay")
    _, *clicks = click_at_once([(tabs[0], "Log in"), *((tab, "Add to cart: Supper bowl") for tab in tabs[1:])])
    stories = [tab.story for tab in tabs if tab.page.locator("#story").count()]
    tabs[0].opens()
    click_at_once([(tab, "Add to cart: Side plate") for tab in tabs])
    cart = visitor.cart

    assert (cart["morning-cup"], cart["side-plate"]) == (3, 3)
    came_along = sum(int(number) for number in re.findall(r"(\d+) piece", " ".join(stories)))
    by_customer = sum("shop_session" in cookies_of(click) for click in clicks)
    assert came_along - 3 + by_customer <= cart.get("supper-bowl", 0) <= 2
