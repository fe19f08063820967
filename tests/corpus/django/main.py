"""A Django site in one file, served on $PORT: a URL with a typed part, a template, and the ORM over SQLite."""

import os
from wsgiref.simple_server import make_server

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.humanize"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="not a secret: nothing is signed here",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    USE_TZ=True,
)
django.setup()

from django.contrib.contenttypes.models import ContentType  # noqa: E402  (models need the settings)
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpRequest, HttpResponse, JsonResponse  # noqa: E402
from django.template import engines  # noqa: E402
from django.urls import path  # noqa: E402

PAGE = engines["django"].from_string("{% load humanize %}<p>{{ text }} has {{ number|intcomma }} readers</p>\n")


def page(request: HttpRequest, number: int) -> HttpResponse:
    return HttpResponse(PAGE.render({"text": request.GET.get("name", ""), "number": number}))


def models(request: HttpRequest) -> JsonResponse:
    found = ContentType.objects.order_by("model").values_list("app_label", "model")
    return JsonResponse({"models": [list(row) for row in found]})


urlpatterns = [path("readers/<int:number>", page), path("models", models)]

if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    make_server("0.0.0.0", int(os.environ["PORT"]), get_wsgi_application()).serve_forever()
