import jwt

from tests.shop.conftest import Visitor

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
    assert "10 pieces and 1 favourite" in laptop.story
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
