"""Django: a visitor who logs in takes the cart along. The receiver of `user_logged_in` is the part that matters.

One file for the sake of the example: settings, model, receiver and views would be where your project has them.
"""

import json
import os
import sys
from wsgiref.simple_server import make_server

import django
from django.conf import settings
from guest_sessions.django import GuestSessions

guests = GuestSessions(
    os.environ["GUEST_URL"], issuer=os.environ["GUEST_ISSUER"], api_key=os.environ.get("GUEST_API_KEY")
)
guest_middleware = guests.middleware

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    SECRET_KEY=os.environ["DJANGO_SECRET_KEY"],
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=[
        f"{__name__}.guest_middleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["DATABASE"],
            "OPTIONS": {"transaction_mode": "IMMEDIATE"},  # SQLite locks no rows
        }
    },
    USE_TZ=True,
)
django.setup()

from django.contrib.auth import authenticate, login  # noqa: E402  (models need settings)
from django.contrib.auth.models import User  # noqa: E402
from django.contrib.auth.signals import user_logged_in  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection, models, transaction  # noqa: E402
from django.dispatch import receiver  # noqa: E402
from django.http import HttpRequest, HttpResponse, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402


class Account(models.Model):  # noqa: DJ008  (nothing prints it)
    """`state` is stored as the hand-over returns it, with its `merged_guests`."""

    user = models.OneToOneField(User, models.CASCADE, primary_key=True)
    state = models.JSONField(default=dict)

    class Meta:  # noqa: D106
        app_label = "shop"


@receiver(user_logged_in)
def hand_over_guest(request: HttpRequest, user: User, **_: object) -> None:
    """Reads, hands over and stores in one transaction: two logins at once would lose a cart."""
    guest = getattr(request, "guest", None)  # `Client.force_login` has a request without middleware
    if guest is None:
        return
    with transaction.atomic():
        account = Account.objects.select_for_update().get_or_create(user=user)[0]
        # It does not raise: without guest-sessions the state comes back as it was.
        account.state = dict(guest.hand_over(account.state, policy="cart").payload)
        account.save()


@csrf_exempt  # a form of yours has the token; so has Django's own LoginView, which sends the signal, too
def log_in(request: HttpRequest) -> HttpResponse:
    user = authenticate(request, **json.loads(request.body))
    if user is None:
        return HttpResponse(status=401)
    login(request, user)
    return HttpResponse(status=204)


def page(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"guest": request.guest.payload})


@csrf_exempt
def put_into_cart(request: HttpRequest) -> HttpResponse:
    request.guest.patch({"cart": json.loads(request.body)}, policy="cart")
    return JsonResponse({"guest": request.guest.payload})


def account(request: HttpRequest) -> HttpResponse:
    if not request.user.is_authenticated:
        return HttpResponse(status=401)
    return JsonResponse(Account.objects.get(user=request.user).state)


urlpatterns = [path("", page), path("cart", put_into_cart), path("login", log_in), path("account", account)]

if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    with connection.schema_editor() as editor:
        editor.create_model(Account)
    ada = User.objects.create_user("ada", password=os.environ["ADAS_PASSWORD"])
    Account.objects.create(user=ada, state={"name": "Ada", "cart": []})
    make_server("127.0.0.1", int(sys.argv[1]), get_wsgi_application()).serve_forever()
