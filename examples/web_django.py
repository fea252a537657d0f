"""Django views that leave work to a queue: they answer at once, and tell later.

In one file, with settings and URLs; of a project of yours only the views and `queue` are needed.
See examples/web_flask.py for its use.

    $ DJANGO_SETTINGS_MODULE=web_django python -m django runserver
"""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from graced import NoSuchJob, Queue, QueueError

# Settings

SECRET_KEY = os.environ.get("SECRET_KEY", "not for the world")
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = __name__
TIME_ZONE = "UTC"
WSGI_APPLICATION = f"{__name__}.application"

# Views

queue = Queue.open(pool="checksums")  # connects when it is needed; threads and forks may share it


@csrf_exempt
@require_POST
def submit(request: HttpRequest) -> JsonResponse:
    """Submit a job: once for each Idempotency-Key while it waits or is in hand."""
    try:
        number = queue.submit(request.POST["path"], unique=request.headers.get("Idempotency-Key"))
    except QueueError as error:  # full, its disk is full, no daemon, or the answer was lost
        return JsonResponse({"error": str(error)}, status=503)
    return JsonResponse({"job": number}, status=202)


def look(_request: HttpRequest, number: int) -> JsonResponse:
    """Tell what has become of a job."""
    try:
        job = queue.job(number)
    except NoSuchJob as error:
        return JsonResponse({"error": str(error)}, status=404)
    except QueueError as error:
        return JsonResponse({"error": str(error)}, status=503)
    return JsonResponse({"state": job.state, "result": job.result})


urlpatterns = [path("checksums", submit), path("checksums/<int:number>", look)]

os.environ.setdefault("DJANGO_SETTINGS_MODULE", __name__)
application = get_wsgi_application()
